package account

import (
	"sync"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// readTexts remembers the committed texts of numbers for readers, which ask for the same ones again and again: a number never
// gets another text. It is safe for concurrent use.
type readTexts struct {
	mu    sync.Mutex
	texts map[uint32][]byte
}

// maxReadTexts is how many are remembered; then all are forgotten.
const maxReadTexts = 1 << 18

func (t *readTexts) get(store *keyed.Store, number uint32) ([]byte, error) {
	t.mu.Lock()
	text, known := t.texts[number]
	t.mu.Unlock()
	if known {
		return text, nil
	}
	text, err := store.Get(textKey(number))
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.texts == nil || len(t.texts) >= maxReadTexts {
		t.texts = map[uint32][]byte{}
	}
	t.texts[number] = text
	return text, nil
}
