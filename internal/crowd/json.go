package crowd

import "strconv"

// AppendEvent appends the JSON:API resource of POST /api/events.
func (e *Event) AppendEvent(b []byte) []byte {
	b = append(b, `{"data":{"type":"event","attributes":{`...)
	b = e.appendAttributes(b)
	b = append(b, `,"metric":{"data":{"type":"metric","attributes":{"name":"`...)
	b = append(append(b, MetricName(e.Metric)...), `"}}},"profile":`...)
	b = e.appendProfile(b)
	return append(b, `}}}`...)
}

// AppendBulk appends the JSON:API resource of POST /api/event-bulk-create-jobs, with one item for each event.
func AppendBulk(b []byte, events []Event) []byte {
	b = append(b, `{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[`...)
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		e := &events[i]
		b = append(b, `{"type":"event-bulk-create","attributes":{"profile":`...)
		b = e.appendProfile(b)
		b = append(b, `,"events":{"data":[{"type":"event","attributes":{`...)
		b = e.appendAttributes(b)
		b = append(b, `,"metric":{"data":{"type":"metric","attributes":{"name":"`...)
		b = append(append(b, MetricName(e.Metric)...), `"}}}}}]}}}`...)
	}
	return append(b, `]}}}}`...)
}

func (e *Event) appendProfile(b []byte) []byte {
	b = append(b, `{"data":{"type":"profile","attributes":{`...)
	if e.Email {
		b = append(append(append(b, `"email":"`...), EmailOf(e.Profile)...), '"')
	}
	if e.External {
		if e.Email {
			b = append(b, ',')
		}
		b = append(append(append(b, `"external_id":"`...), ExternalOf(e.Profile)...), '"')
	}
	return append(b, `}}}`...)
}

func (e *Event) appendAttributes(b []byte) []byte {
	b = append(b, `"properties":{"`+DimURL+`":"https://shop.test/item/`...)
	b = strconv.AppendInt(b, int64(e.URL), 10)
	b = append(b, `","`+DimCampaign+`":"Campaign `...)
	b = strconv.AppendInt(b, int64(e.Campaign), 10)
	b = append(b, `","`+DimInbox+`":"Inbox `...)
	b = strconv.AppendInt(b, int64(e.Inbox), 10)
	b = append(b, `","`+DimClient+`":"Client `...)
	b = strconv.AppendInt(b, int64(e.Client), 10)
	b = append(b, `","Items":["shirt","shoes"],"Order":`...)
	b = strconv.AppendUint(b, e.N, 10)
	b = append(b, `},"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","value":`...)
	b = strconv.AppendInt(b, int64(e.Value/100), 10)
	b = append(b, '.', byte('0'+e.Value/10%10), byte('0'+e.Value%10))
	b = append(b, `,"unique_id":"`...)
	b = append(append(b, 'c'), strconv.FormatUint(e.N, 36)...)
	return append(b, '"')
}
