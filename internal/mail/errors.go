package mail

import "errors"

// What the queue answers when it cannot take a batch or find a thing.
// Each has one home here, so that errors.Is works across packages.
var (
	// ErrQueueFull: the configured number of messages or bytes is reached. Temporary.
	ErrQueueFull = errors.New("queue is full")
	// ErrDiskFull: free space on the volume is below the configured reserve. Temporary.
	ErrDiskFull = errors.New("spool volume is nearly full")
	// ErrDraining: the engine is shutting down or was told to take no more. Temporary.
	ErrDraining = errors.New("not taking messages: draining")
	// ErrTooLarge: a batch or body exceeds what one durable write can hold.
	ErrTooLarge = errors.New("too large to store")
	// ErrReceiptConflict: the idempotency key was used for another request body.
	ErrReceiptConflict = errors.New("idempotency key was used with another body")
	// ErrNotTried: nothing reached the provider, since the proxy is gone or a permit
	// was not to be had. The messages may go at once by another source.
	ErrNotTried = errors.New("not tried")
	// ErrNotFound: no such message, content or queue (or another tenant's).
	ErrNotFound = errors.New("not found")
)
