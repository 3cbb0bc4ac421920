package backoff

// Kept is how much the engine remembers.
func (e *Engine) Kept() (hits, windows int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	total := 0
	for _, el := range e.windows {
		total += len(el.Value.(*window).hits)
	}
	if total != e.hits || len(e.windows) != e.order.Len() {
		return -1, -1
	}
	return e.hits, len(e.windows)
}
