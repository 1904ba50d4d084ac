package arm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Duration is an ISO-8601 duration on the wire ("PT1M30S", "PT0.5S").
type Duration time.Duration

// MarshalText prints the duration as .NET does: days, hours, minutes, seconds with up to nine decimals.
func (d Duration) MarshalText() ([]byte, error) { return []byte(FormatDuration(time.Duration(d))), nil }

// UnmarshalText reads any form that ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// maxDurationText bounds what ParseDuration looks at, in bytes.
const maxDurationText = 64

// ParseDuration reads an ISO-8601 duration of weeks, days, hours, minutes and seconds; each may have a fraction.
// Years and months have no fixed length and are refused.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%.40q is not an ISO-8601 duration such as PT5S, PT0.5S or PT1M30S", s)
	if len(s) > maxDurationText {
		return 0, bad
	}
	rest, negative := strings.CutPrefix(strings.ToUpper(s), "-")
	rest, ok := strings.CutPrefix(rest, "P")
	if !ok || rest == "" {
		return 0, bad
	}
	units := []unit{{'W', 7 * 24 * time.Hour}, {'D', 24 * time.Hour}}
	inTime := false
	var sum time.Duration
	for rest != "" {
		if rest[0] == 'T' && !inTime && len(rest) > 1 {
			inTime, rest = true, rest[1:]
			units = []unit{{'H', time.Hour}, {'M', time.Minute}, {'S', time.Second}}
			continue
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && r != ',' && (r < '0' || r > '9') })
		if end <= 0 {
			return 0, bad
		}
		at := slices.IndexFunc(units, func(u unit) bool { return u.letter == rest[end] })
		if at < 0 {
			return 0, bad
		}
		part, ok := scale(strings.Replace(rest[:end], ",", ".", 1), units[at].length)
		if !ok || sum+part < sum {
			return 0, bad
		}
		sum += part
		units, rest = units[at+1:], rest[end+1:] // a unit appears once and in order
	}
	if negative {
		sum = -sum
	}
	return sum, nil
}

type unit struct {
	letter byte
	length time.Duration
}

// scale multiplies a decimal number by a length exactly, as far as nanoseconds go.
func scale(number string, length time.Duration) (time.Duration, bool) {
	whole, fraction, dotted := strings.Cut(number, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > int64((1<<63-1)/length)-1 || dotted && fraction == "" {
		return 0, false
	}
	d := time.Duration(n) * length
	for i := range len(fraction) {
		c := fraction[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		if i < 9 {
			d += time.Duration(c-'0') * (length / time.Duration(pow10(i+1)))
		}
	}
	return d, true
}

func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

// FormatDuration prints a duration so that ParseDuration gives it back.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "PT0S"
	}
	var b strings.Builder
	u := uint64(d)
	if d < 0 {
		b.WriteByte('-')
		u = -u
	}
	b.WriteByte('P')
	whole, nanos := u/uint64(time.Second), u%uint64(time.Second)
	if days := whole / 86400; days > 0 {
		b.WriteString(strconv.FormatUint(days, 10) + "D")
	}
	if whole%86400 == 0 && nanos == 0 {
		return b.String()
	}
	b.WriteByte('T')
	if h := whole % 86400 / 3600; h > 0 {
		b.WriteString(strconv.FormatUint(h, 10) + "H")
	}
	if m := whole % 3600 / 60; m > 0 {
		b.WriteString(strconv.FormatUint(m, 10) + "M")
	}
	if s := whole % 60; s > 0 || nanos > 0 {
		b.WriteString(strconv.FormatUint(s, 10))
		if nanos > 0 {
			b.WriteString("." + strings.TrimRight(fmt.Sprintf("%09d", nanos), "0"))
		}
		b.WriteByte('S')
	}
	return b.String()
}

// FormatTime prints an instant as the service does: UTC with seven decimals.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }
