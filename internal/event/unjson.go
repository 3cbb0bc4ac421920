package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// wire is Event with the names of its JSON form, for reading.
type wire struct {
	ID          string    `json:"id"`
	Kind        Kind      `json:"kind"`
	Time        time.Time `json:"time"`
	Message     mail.ID   `json:"message"`
	Batch       mail.ID   `json:"batch"`
	Tenant      string    `json:"tenant"`
	Stream      string    `json:"stream"`
	Pool        string    `json:"pool"`
	Tags        tagList   `json:"tags"`
	ReversePath string    `json:"reverse_path"`
	Recipient   string    `json:"recipient"`
	Domain      string    `json:"domain"`
	Size        int64     `json:"size"`
	Protocol    string    `json:"protocol"`
	Peer        string    `json:"peer"`
	AuthID      string    `json:"auth"`
	Attempt     int       `json:"attempt"`
	Site        string    `json:"site"`
	Provider    string    `json:"provider"`
	Source      string    `json:"source"`
	Host        string    `json:"host"`
	Address     string    `json:"address"`
	TLS         string    `json:"tls"`
	Session     mail.ID   `json:"session"`
	TookMS      float64   `json:"took_ms"`
	Outcome     string    `json:"outcome"`
	Class       string    `json:"class"`
	Code        int       `json:"code"`
	Enhanced    string    `json:"enhanced"`
	Reply       string    `json:"reply"`
	Command     string    `json:"command"`
	NextTry     time.Time `json:"next_try"`
	Reason      string    `json:"reason"`
	Filter      string    `json:"filter"`
	Until       time.Time `json:"until"`
	Limit       string    `json:"limit"`
	Rule        string    `json:"rule"`
	GapEvents   int64     `json:"gap_events"`
}

// UnmarshalJSON implements json.Unmarshaler. Unknown fields are ignored, absent ones are empty afterwards.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	us := math.Round(w.TookMS * 1000)
	if math.Abs(us) > math.MaxInt64/float64(time.Microsecond)/2 {
		return fmt.Errorf("event: took_ms %g is out of range", w.TookMS)
	}
	*e = Event{
		ID: w.ID, Kind: w.Kind, Time: w.Time, Message: w.Message, Batch: w.Batch,
		Tenant: w.Tenant, Stream: w.Stream, Pool: w.Pool, Tags: w.Tags,
		ReversePath: w.ReversePath, Recipient: w.Recipient, Domain: w.Domain, Size: w.Size,
		Protocol: w.Protocol, Peer: w.Peer, AuthID: w.AuthID, Attempt: w.Attempt,
		Site: w.Site, Provider: w.Provider, Source: w.Source, Host: w.Host, Address: w.Address,
		TLS: w.TLS, Session: w.Session, Took: time.Duration(us) * time.Microsecond,
		Outcome: w.Outcome, Class: w.Class, Code: w.Code, Enhanced: w.Enhanced, Reply: w.Reply,
		Command: w.Command, NextTry: w.NextTry, Reason: w.Reason, Filter: w.Filter, Until: w.Until, Limit: w.Limit, Rule: w.Rule,
		GapEvents: w.GapEvents,
	}
	return nil
}

// tagList reads a JSON object of strings and keeps its order.
type tagList []mail.Tag

// UnmarshalJSON implements json.Unmarshaler.
func (l *tagList) UnmarshalJSON(b []byte) error {
	*l = nil
	if string(b) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("tags: want an object of strings")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fmt.Errorf("tags: %w", err)
		}
		var value string
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("tags: %w", err)
		}
		*l = append(*l, mail.Tag{Name: fmt.Sprint(name), Value: value})
	}
	return nil
}
