package api

import (
	"encoding/json"
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// profile answers a profile; lists are included when they are not nil.
func (c *call) profile(status int, p *customer.Profile, lists []resource) answer {
	doc := one{Data: c.profileResource(p, nil), Links: &jsonapi.Links{Self: c.url(c.r.URL.RequestURI())}}
	if lists != nil {
		var to ManyRefs
		for _, l := range lists {
			to.Data = append(to.Data, jsonapi.Ref{Type: l.Type, ID: l.ID})
		}
		doc.Data.Relationships, doc.Included = ProfileRelationships{Lists: to}, lists
	}
	return answer{status: status, body: doc}
}

func (c *call) profileResource(p *customer.Profile, joined *time.Time) resource {
	id := p.ID.String()
	return resource{Type: "profile", ID: id, Attributes: c.sparse("profile", c.profileView(p, joined)), Links: c.self("profiles", id)}
}

// profileView puts the attributes together. What is null or was never given is left out.
func (c *call) profileView(p *customer.Profile, joined *time.Time) map[string]any {
	out := map[string]any{}
	var attributes map[string]json.RawMessage
	if len(p.Attributes) > 0 && json.Unmarshal(p.Attributes, &attributes) == nil {
		for name, value := range attributes {
			if string(value) != "null" {
				out[name] = value
			}
		}
	}
	delete(out, "anonymous_id") // it can be written, never read
	for name, value := range map[string]string{"external_id": p.External, "email": p.Email, "phone_number": p.Phone} {
		if value != "" {
			out[name] = value
		}
	}
	for name, at := range map[string]time.Time{"created": p.Created, "updated": p.Updated, "last_event_date": p.LastEvent} {
		if !at.IsZero() {
			out[name] = at
		}
	}
	if joined != nil {
		out["joined_group_at"] = *joined
	}
	if len(p.Properties) > len("{}") {
		out["properties"] = wire.Object(p.Properties)
	}
	if c.also("profile", "subscriptions") {
		out["subscriptions"] = subscriptions(p)
	}
	return out
}

// subscriptions is what is known of consent, in the form that clients know.
func subscriptions(p *customer.Profile) map[string]any {
	email := marketing(p, "email", "can_receive_email_marketing")
	suppressed := []map[string]any{}
	for _, s := range p.Suppressions {
		suppressed = append(suppressed, map[string]any{"reason": s.Reason, "timestamp": s.At})
	}
	email["suppression"] = suppressed
	byList := []map[string]any{}
	for _, said := range p.Consents {
		if said.Channel == "email" && said.List != "" && !said.Subscribed {
			byList = append(byList, map[string]any{"list_id": said.List, "reason": customer.Unsubscribe, "timestamp": said.At})
		}
	}
	email["list_suppressions"] = byList
	return map[string]any{
		"email": map[string]any{"marketing": email},
		"sms": map[string]any{"marketing": marketing(p, "sms", "can_receive_sms_marketing"),
			"transactional": marketing(p, channelTransactional, "can_receive_sms_transactional")},
	}
}

// channelTransactional is consent to text messages that are no marketing.
const channelTransactional = "sms_transactional"

func marketing(p *customer.Profile, channel, can string) map[string]any {
	out := map[string]any{"consent": "NEVER_SUBSCRIBED", can: p.CanReceive(channel)}
	for _, said := range p.Consents {
		if said.Channel != channel || said.List != "" {
			continue
		}
		out["consent"] = "UNSUBSCRIBED"
		if said.Subscribed {
			out["consent"] = "SUBSCRIBED"
		}
		out["consent_timestamp"], out["last_updated"] = said.At, said.Updated
		out["method"], out["method_detail"] = said.Method, said.Source
	}
	return out
}
