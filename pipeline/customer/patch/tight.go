package patch

// Most objects from outside come through the door, which writes them without white space. Those are taken as they stand, in one pass that
// holds them to all of JSON's rules; others are compacted first.

// mostDepth is how deep values may be nested for that.
const mostDepth = 32

// tight reads an object that has no white space between its tokens. It is false for others, and for what is no JSON.
func tight(text []byte) (Object, bool) {
	if len(text) < 2 || text[0] != '{' {
		return nil, false
	}
	if text[1] == '}' {
		return nil, len(text) == 2
	}
	out, all := make(Object, 0, room(text)), string(text)
	for i := 1; ; i++ {
		end := passText(text, i)
		if end < 0 || end >= len(text) || text[end] != ':' {
			return nil, false
		}
		name := i
		i = passValue(text, end+1, mostDepth)
		if i < 0 || i >= len(text) || text[i] != ',' && text[i] != '}' {
			return nil, false
		}
		m := Member{name: text[name:end:end], Value: text[end+1 : i : i]}
		if m.setName(all[name:end]) != nil {
			return nil, false
		}
		out.set(m)
		if text[i] == '}' {
			return out, i+1 == len(text)
		}
	}
}

// passValue is where the value that begins at i ends, or -1 if there is none.
func passValue(b []byte, i, depth int) int {
	if i >= len(b) || depth == 0 {
		return -1
	}
	switch b[i] {
	case '"':
		return passText(b, i)
	case '{', '[':
		return passNested(b, i, depth)
	case 't':
		return passWord(b, i, "true")
	case 'f':
		return passWord(b, i, "false")
	case 'n':
		return passWord(b, i, "null")
	}
	return passNumber(b, i)
}

func passWord(b []byte, i int, word string) int {
	if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
		return end
	}
	return -1
}

// passNested passes an object or a list.
func passNested(b []byte, i, depth int) int {
	end := b[i] + 2 // in ASCII
	object := b[i] == '{'
	if i++; i < len(b) && b[i] == end {
		return i + 1
	}
	for {
		if object {
			if i = passText(b, i); i < 0 || i >= len(b) || b[i] != ':' {
				return -1
			}
			i++
		}
		if i = passValue(b, i, depth-1); i < 0 || i >= len(b) {
			return -1
		}
		switch b[i] {
		case end:
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

// passText passes a string.
func passText(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i = passEscape(b, i+1); i < 0 {
				return -1
			}
		}
	}
	return -1
}

// passEscape is the last byte of an escape, given what follows its backslash.
func passEscape(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i
	case 'u':
		if i+4 >= len(b) {
			return -1
		}
		for _, c := range b[i+1 : i+5] {
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return -1
			}
		}
		return i + 4
	}
	return -1
}

func passNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = passDigits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = passDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return passDigits(b, i)
	}
	return i
}

// passDigits passes one or more.
func passDigits(b []byte, i int) int {
	begin := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == begin {
		return -1
	}
	return i
}
