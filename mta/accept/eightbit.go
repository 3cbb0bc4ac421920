package accept

import "encoding/binary"

const highBits = 0x8080808080808080

// hasHigh reports whether a byte above 127 occurs in b, 32 bytes at a time.
func hasHigh(b []byte) bool {
	for len(b) >= 32 {
		w := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if w&highBits != 0 {
			return true
		}
		b = b[32:]
	}
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b)&highBits != 0 {
			return true
		}
		b = b[8:]
	}
	for _, c := range b {
		if c > 127 {
			return true
		}
	}
	return false
}
