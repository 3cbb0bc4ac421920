package mail

import "context"

// Pass is the permission to send one message now. A nil Pass means that
// nothing limits messages.
type Pass interface {
	// Use is called right before MAIL goes out. It returns at once while the
	// permission is fresh; one that became stale is given up, and Use waits for
	// another. An error tells that nothing may be sent: the message goes back.
	Use(ctx context.Context) error
	// Charge tells of n more messages that go in the same transaction.
	Charge(n int)
}
