package pipeline

import (
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/identity"
)

// TestEraseComeBack: who comes back with an identifier that a deleted profile had only claimed is the same new person after a
// replay from the beginning of the erased logs.
func TestEraseComeBack(t *testing.T) {
	c := newCity(t, "")
	const mail, phone = "mail:" + secret + "@mail.test", "phone:+15551234"
	c.put(c.event("b1", mail, phone), c.event("b2", "mail:other@mail.test"))
	c.quiet()
	id := c.profile(phone)
	c.put(c.event("b3", "ext:someone", phone)) // a conflict: the phone stays with the victim
	c.quiet()
	c.delete(id)
	c.put(c.event("b4", phone), c.event("b5", phone))
	c.quiet()
	back, before := c.profile(phone), c.picture()
	if back == id {
		t.Fatal("the deleted profile came back itself")
	}
	for c.p.Erasure().Waiting != 1 {
		time.Sleep(10 * time.Millisecond)
	}
	c.must(c.pass(t.Context()))
	c.replay()
	if got := c.picture(); got != before {
		t.Errorf("a replay ends otherwise:\n%s\n%s", before, got)
	}
	if again := c.profile(phone); again != back {
		t.Errorf("after a replay %v came back, before %v", again, back)
	}
	if _, there, err := identity.NewReader(c.p.identity.Store, c.p.intake.Partitions()).Lookup(shop, who(mail)[0]); there || err != nil {
		t.Errorf("the deleted one lives: %v", err)
	}
	c.put(c.event("b6", phone, mail)) // known as ever
	c.quiet()
	if c.profile(phone) == id || c.profile(mail) == id {
		t.Error("the deleted profile came back")
	}
	c.stop()
}
