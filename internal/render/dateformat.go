package render

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// formatDate writes a moment by Django's format letters (those of PHP, and some
// of its own). A backslash takes the letter behind it literally.
func formatDate(m moment, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		c := format[i]
		if c == '\\' && i+1 < len(format) {
			i++
			b.WriteByte(format[i])
			continue
		}
		if s, ok := dateLetter(m, c); ok {
			b.WriteString(s)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// dateLetter returns what a format letter stands for.
func dateLetter(m moment, c byte) (string, bool) {
	if s, ok := timeLetter(m, c); ok || m.timeOnly {
		return s, ok
	}
	if s, ok := dayLetter(m.t, c); ok {
		return s, ok
	}
	t := m.t
	switch c {
	case 'b':
		return strings.ToLower(t.Format("Jan")), true
	case 'c':
		return isoFormat(m), true
	case 'E', 'F':
		return t.Month().String(), true
	case 'I':
		return "0", true
	case 'L':
		return map[bool]string{true: "True", false: "False"}[isLeap(t.Year())], true
	case 'm':
		return t.Format("01"), true
	case 'M':
		return t.Format("Jan"), true
	case 'n':
		return strconv.Itoa(int(t.Month())), true
	case 'N':
		return apMonth(t.Month()), true
	case 'r':
		return t.Format("Mon, 02 Jan 2006 15:04:05 -0700"), true
	case 't':
		return strconv.Itoa(time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()), true
	case 'U':
		return strconv.FormatInt(t.Unix(), 10), true
	case 'y':
		return fmt.Sprintf("%02d", t.Year()%100), true
	case 'Y':
		return strconv.Itoa(t.Year()), true
	}
	return "", false
}

// dayLetter is the letters of the day, the week and the year of the week.
func dayLetter(t time.Time, c byte) (string, bool) {
	year, week := t.ISOWeek()
	switch c {
	case 'd':
		return t.Format("02"), true
	case 'D':
		return t.Format("Mon"), true
	case 'j':
		return strconv.Itoa(t.Day()), true
	case 'l':
		return t.Weekday().String(), true
	case 'o':
		return strconv.Itoa(year), true
	case 'S':
		return ordinalEnding(int64(t.Day())), true
	case 'w':
		return strconv.Itoa(int(t.Weekday())), true
	case 'W':
		return strconv.Itoa(week), true
	case 'z':
		return strconv.Itoa(t.YearDay()), true
	}
	return "", false
}

// timeLetter is the letters of the time of day and the zone.
func timeLetter(m moment, c byte) (string, bool) {
	t := m.t
	half := t.Hour() % 12
	if half == 0 {
		half = 12
	}
	switch c {
	case 'a':
		if t.Hour() > 11 {
			return "p.m.", true
		}
		return "a.m.", true
	case 'A':
		return t.Format("PM"), true
	case 'f':
		return shortTime(t, half), true
	case 'g':
		return strconv.Itoa(half), true
	case 'G':
		return strconv.Itoa(t.Hour()), true
	case 'h':
		return t.Format("03"), true
	case 'H':
		return t.Format("15"), true
	case 'i':
		return t.Format("04"), true
	case 'P':
		return wordTime(m, half), true
	case 's':
		return t.Format("05"), true
	case 'u':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'e', 'O', 'T', 'Z':
		return zoneLetter(m, c), true
	}
	return "", false
}

func shortTime(t time.Time, half int) string {
	if t.Minute() == 0 {
		return strconv.Itoa(half)
	}
	return strconv.Itoa(half) + t.Format(":04")
}

func wordTime(m moment, half int) string {
	switch {
	case m.t.Minute() == 0 && m.t.Hour() == 0:
		return "midnight"
	case m.t.Minute() == 0 && m.t.Hour() == 12:
		return "noon"
	}
	ending, _ := timeLetter(m, 'a')
	return shortTime(m.t, half) + " " + ending
}

// zoneLetter: a time of day has no zone, and e names one only if it was given.
func zoneLetter(m moment, c byte) string {
	if m.timeOnly {
		return ""
	}
	name, offset := m.t.Zone()
	switch c {
	case 'O':
		return m.t.Format("-0700")
	case 'Z':
		return strconv.Itoa(offset)
	}
	if c == 'e' && !m.zoned {
		return ""
	}
	if offset == 0 {
		return "UTC"
	}
	if name != "" && name[0] != '+' && name[0] != '-' {
		return name
	}
	return "UTC" + m.t.Format("-07:00")
}

// apMonth is the Associated Press's way to shorten a month.
func apMonth(m time.Month) string {
	switch m {
	case time.March, time.April, time.May, time.June, time.July:
		return m.String()
	case time.September:
		return "Sept."
	}
	return m.String()[:3] + "."
}

func ordinalEnding(n int64) string {
	if n < 0 {
		n = 100 - (-n)%100 // Python's remainder is never negative
	}
	if h := n % 100; h >= 11 && h <= 13 {
		return "th"
	}
	switch n % 10 {
	case 1:
		return "st"
	case 2:
		return "nd"
	case 3:
		return "rd"
	}
	return "th"
}
