package crowd

import (
	"strconv"
	"time"
)

// AppendEvent appends the JSON:API resource of POST /api/events.
func (e *Event) AppendEvent(b []byte) []byte {
	b = append(b, `{"data":{"type":"event","attributes":{`...)
	b = e.appendAttributes(b)
	b = e.appendMetric(append(b, `,"metric":`...))
	b = e.appendProfile(append(b, `,"profile":`...))
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
		b = e.appendProfile(append(b, `{"type":"event-bulk-create","attributes":{"profile":`...))
		b = e.appendAttributes(append(b, `,"events":{"data":[{"type":"event","attributes":{`...))
		b = e.appendMetric(append(b, `,"metric":`...))
		b = append(b, `}}]}}}`...)
	}
	return append(b, `]}}}}`...)
}

// AppendProfiles appends the JSON:API resource of POST /api/profile-bulk-import-jobs, with n profiles from first on. Each has
// all identifiers that events give for it, so that no event joins anything later.
func (w *World) AppendProfiles(b []byte, first, n int) []byte {
	b = append(b, `{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":[`...)
	for i := first; i < first+n; i++ {
		if i > first {
			b = append(b, ',')
		}
		b = appendIdentifiers(append(b, `{"type":"profile","attributes":{`...), i, true, w.known(i))
		b = strconv.AppendInt(append(b, `,"first_name":"First`...), int64(i), 10)
		b = append(b, `","last_name":"Last","location":{"country":"Germany","city":"Berlin"},"properties":{"plan":"gold","score":`...)
		b = append(strconv.AppendInt(b, int64(i%100), 10), `}}}`...)
	}
	return append(b, `]}}}}`...)
}

func (e *Event) appendProfile(b []byte) []byte {
	b = append(b, `{"data":{"type":"profile","attributes":{`...)
	b = appendIdentifiers(b, e.Profile, e.Email, e.External)
	return append(b, `}}}`...)
}

// appendIdentifiers appends members of an object.
func appendIdentifiers(b []byte, profile int, email, external bool) []byte {
	if email {
		b = append(appendEmail(append(b, `"email":"`...), profile), '"')
	}
	if external {
		if email {
			b = append(b, ',')
		}
		b = append(appendExternal(append(b, `"external_id":"`...), profile), '"')
	}
	return b
}

func (e *Event) appendMetric(b []byte) []byte {
	b = append(b, `{"data":{"type":"metric","attributes":{"name":"`...)
	if e.Kind == Shop {
		return append(appendMetricName(b, e.Metric), `"}}}`...)
	}
	return append(append(b, MailMetric(e.Kind)...), `","service":"`+Service+`"}}}`...)
}

func (e *Event) appendAttributes(b []byte) []byte {
	b = append(b, `"properties":{"`...)
	if e.Kind == Shop {
		b = e.appendShop(b)
	} else {
		b = e.appendMail(b)
	}
	b = appendTime(append(b, `},"time":"`...), e.Time)
	if e.Kind == Shop {
		b = strconv.AppendInt(append(b, `","value":`...), int64(e.Value/100), 10)
		b = append(b, '.', byte('0'+e.Value/10%10), byte('0'+e.Value%10), ',')
	} else {
		b = append(b, `",`...)
	}
	b = strconv.AppendUint(append(b, `"unique_id":"c`...), e.N, 36)
	return append(b, '"')
}

func (e *Event) appendShop(b []byte) []byte {
	b = appendURL(b, e.URL)
	b = strconv.AppendInt(append(b, `","`+DimCampaign+`":"Campaign `...), int64(e.Campaign), 10)
	b = strconv.AppendInt(append(b, `","`+DimInbox+`":"Inbox `...), int64(e.Inbox), 10)
	b = strconv.AppendInt(append(b, `","`+DimClient+`":"Client `...), int64(e.Client), 10)
	return strconv.AppendUint(append(b, `","Items":["shirt","shoes"],"Order":`...), e.N, 10)
}

func appendURL(b []byte, url int) []byte {
	return strconv.AppendInt(append(b, DimURL+`":"https://shop.test/item/`...), int64(url), 10)
}

// appendMail appends what the MTA's events have as properties: the message and what became of it. The API's hydration fills in
// nothing for a message that this MTA did not send, so all of it is given.
func (e *Event) appendMail(b []byte) []byte {
	number := func(before string) { b = strconv.AppendInt(append(b, before...), int64(e.Campaign), 10) }
	if e.Mail.Flow {
		number(`$flow":"f`)
		number(`","$message":"fm`)
		number(`","Message Name":"Flow mail `)
	} else {
		number(`$campaign":"c`)
		number(`","` + DimCampaign + `":"Campaign `)
		number(`","$message":"cm`)
	}
	number(`","Subject":"Subject `)
	b = strconv.AppendInt(append(b, `","Email Domain":"`+domain+`","`+DimInbox+`":"Inbox `...), int64(e.Inbox), 10)
	b = e.Mail.appendID(append(b, `","message_id":"`...))
	switch e.Kind {
	case Bounced:
		if e.Mail.Hard {
			return append(b, `","Bounce Type":"Hard","Failure Type":"smtp","Failure Source":"mx.`+domain+`","attempt":1,"code":550,"enhanced":"5.1.1","reply":"no such mailbox"`...)
		}
		return append(b, `","Bounce Type":"Soft","Failure Type":"smtp","Failure Source":"mx.`+domain+`","attempt":1,"code":554,"enhanced":"5.7.1","reply":"not wanted here"`...)
	case Opened:
		b = strconv.AppendInt(append(b, `","`+DimClient+`":"Client `...), int64(e.Client), 10)
		return strconv.AppendBool(append(b, `","Machine Open":`...), e.Mail.Bot)
	case Clicked:
		b = appendURL(append(b, `","`...), e.URL)
		return strconv.AppendBool(append(b, `","Bot Click":`...), e.Mail.Bot)
	}
	return append(b, '"')
}

// appendTime is t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z") for times since 1970, which would be a fifth of an event.
func appendTime(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	sec, day := ms/1000%86400, ms/86_400_000
	// Days to a date, with years from March on and eras of 400 years.
	day += 719_468
	era := day / 146_097
	inEra := day % 146_097
	year := (inEra - inEra/1460 + inEra/36_524 - inEra/146_096) / 365
	inYear := inEra - (365*year + year/4 - year/100)
	month := (5*inYear + 2) / 153
	dom := inYear - (153*month+2)/5 + 1
	year += era * 400
	if month += 3; month > 12 {
		month, year = month-12, year+1
	}
	b = appendTwo(appendTwo(b, year/100), year%100)
	b = appendTwo(append(b, '-'), month)
	b = appendTwo(append(b, '-'), dom)
	b = appendTwo(append(b, 'T'), sec/3600)
	b = appendTwo(append(b, ':'), sec/60%60)
	b = appendTwo(append(b, ':'), sec%60)
	return append(appendTwo(append(b, '.'), ms%1000/10), byte('0'+ms%10), 'Z')
}

func appendTwo(b []byte, n int64) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }
