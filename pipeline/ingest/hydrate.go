package ingest

// Message is what is known of a message that an event may name. Empty fields are not known.
type Message struct {
	Campaign     string `json:"campaign,omitempty"`
	CampaignName string `json:"campaign_name,omitempty"`
	Flow         string `json:"flow,omitempty"`
	Message      string `json:"message,omitempty"` // of the campaign or flow, the same for all recipients
	MessageName  string `json:"message_name,omitempty"`
	Variation    string `json:"variation,omitempty"`
	Subject      string `json:"subject,omitempty"`
	Domain       string `json:"domain,omitempty"`   // of the recipient
	Provider     string `json:"provider,omitempty"` // that took it
}

// Hydrator knows messages. It is safe for concurrent use and must answer at once.
type Hydrator interface {
	// Message returns what is known of a message of a tenant, by the id of one recipient's copy or
	// by the one that all copies have in common; false if nothing is.
	Message(tenant, id string) (Message, bool)
}

// factNames are the properties that an event gets of its message, in the order of values.
func factNames() []string {
	return []string{"$campaign", "Campaign Name", "$flow", "$message", "Message Name", "$variation", "Subject", "Email Domain", "Inbox Provider"}
}

func (m *Message) values() [9]string {
	return [...]string{m.Campaign, m.CampaignName, m.Flow, m.Message, m.MessageName, m.Variation, m.Subject, m.Domain, m.Provider}
}

// AppendProperties appends what is known as members of a JSON object, each with a comma behind it.
func (m *Message) AppendProperties(b []byte) []byte {
	values := m.values()
	for i, name := range factNames() {
		if values[i] != "" {
			b = append(appendText(append(appendText(b, name), ':'), values[i]), ',')
		}
	}
	return b
}

// hydrate completes the properties of an event that names a message. What the event says itself stays.
func (r *reader) hydrate() {
	h := r.door.d.Hydrate
	if h == nil {
		return
	}
	m, ok := r.lookup(h, slotMessageID)
	if !ok {
		if m, ok = r.lookup(h, slotMessage); !ok {
			return
		}
	}
	r.door.numbers.hydrated.Inc()
	if len(r.filled) == 0 {
		r.filled = append(r.filled, '{', '}')
	}
	values := m.values()
	for i, name := range factNames() {
		s := r.door.keys[name]
		if values[i] == "" || r.slots[s] != "" {
			continue
		}
		r.filled = r.filled[:len(r.filled)-1]
		if r.members > 0 {
			r.filled = append(r.filled, ',')
		}
		r.members++
		r.filled = append(appendText(r.filled, name), ':')
		from := len(r.filled)
		r.filled = appendText(r.filled, values[i])
		r.slots[s] = string(r.filled[from:])
		r.filled = append(r.filled, '}')
	}
}

func (r *reader) lookup(h Hydrator, s slot) (Message, bool) {
	raw := r.slots[s]
	if raw == "" || raw[0] != '"' {
		return Message{}, false
	}
	text := scanner{doc: raw}
	return h.Message(r.tenant, text.text())
}
