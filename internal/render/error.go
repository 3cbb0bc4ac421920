package render

import "fmt"

// Error says what is wrong with a template and where. Line counts from 1;
// Column counts characters of the line from 1.
type Error struct {
	Line, Column int
	Message      string

	// internal is the cause of a failure that is ours, for the log; users get Message.
	internal string
	// missing: a filter's argument is a variable that does not exist. An if tag
	// takes that as false, everything else fails.
	missing bool
	// temporary: the deadline, which a less busy machine may meet.
	temporary bool
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// Position returns the line and column, for callers that do not import render.
func (e *Error) Position() (line, col int) { return e.Line, e.Column }

// Temporary reports whether rendering the same template with the same variables
// may succeed later. That is so for the deadline only; every other limit is counted.
func (e *Error) Temporary() bool { return e.temporary }

// position is a place in the source.
type position struct{ line, col int }

func (p position) errorf(format string, args ...any) *Error {
	return &Error{Line: p.line, Column: p.col, Message: fmt.Sprintf(format, args...)}
}
