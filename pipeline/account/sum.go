package account

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"strings"
)

// Sum is an exact sum of values, in millionths: 128 bits, two's complement.
type Sum struct {
	Hi int64
	Lo uint64
}

// SumOf is the sum of one value, in millionths.
func SumOf(v int64) Sum { return Sum{v >> 63, uint64(v)} }

// Add returns s + o.
func (s Sum) Add(o Sum) Sum {
	lo, carry := bits.Add64(s.Lo, o.Lo, 0)
	hi, _ := bits.Add64(uint64(s.Hi), uint64(o.Hi), carry)
	return Sum{int64(hi), lo}
}

// Neg returns -s.
func (s Sum) Neg() Sum {
	lo, borrow := bits.Sub64(0, s.Lo, 0)
	hi, _ := bits.Sub64(0, uint64(s.Hi), borrow)
	return Sum{int64(hi), lo}
}

// IsZero reports whether s is 0.
func (s Sum) IsZero() bool { return s == Sum{} }

// Compare returns -1, 0 or 1 as s is less than, equal to or more than o.
func (s Sum) Compare(o Sum) int {
	switch {
	case s == o:
		return 0
	case s.Hi < o.Hi || s.Hi == o.Hi && s.Lo < o.Lo:
		return -1
	}
	return 1
}

// Big is the number of millionths.
func (s Sum) Big() *big.Int {
	out := big.NewInt(s.Hi)
	return out.Lsh(out, 64).Add(out, new(big.Int).SetUint64(s.Lo))
}

// String is the sum as a decimal number, without an end of zeros.
func (s Sum) String() string {
	sign := ""
	if s.Hi < 0 {
		s, sign = s.Neg(), "-"
	}
	rest := new(big.Int)
	whole, rest := new(big.Int).QuoRem(new(big.Int).Abs(s.Big()), big.NewInt(1_000_000), rest)
	if rest.Sign() == 0 {
		return sign + whole.String()
	}
	return sign + whole.String() + "." + strings.TrimRight(fmt.Sprintf("%06d", rest.Int64()), "0")
}

// MarshalJSON writes a number.
func (s Sum) MarshalJSON() ([]byte, error) { return []byte(s.String()), nil }

// append writes the sum with 7 bits a byte, so that small ones of either sign are short.
func (s Sum) append(b []byte) []byte {
	sign := uint64(s.Hi >> 63)
	hi, lo := uint64(s.Hi)<<1|s.Lo>>63, s.Lo<<1
	hi, lo = hi^sign, lo^sign
	for hi != 0 {
		b = append(b, byte(lo)|0x80)
		lo, hi = lo>>7|hi<<57, hi>>7
	}
	return binary.AppendUvarint(b, lo)
}

// parseSum reads a sum and returns what is behind it.
func parseSum(b []byte) (Sum, []byte, bool) {
	var hi, lo uint64
	for i, c := range b {
		if i > 18 {
			break
		}
		v, at := uint64(c&0x7f), uint(7*i)
		if at < 64 {
			lo |= v << at
			hi |= v >> (64 - at) // nothing for at 0
		} else {
			hi |= v << (at - 64)
		}
		if c < 0x80 {
			sign := -(lo & 1)
			return Sum{int64(hi>>1 ^ sign), (lo>>1 | hi<<63) ^ sign}, b[i+1:], true
		}
	}
	return Sum{}, nil, false
}
