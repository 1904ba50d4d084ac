package telemetry

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// Bounds of what a caller can make a line hold. Azure keeps 70 characters of a user agent.
const (
	maxUserAgent = 70
	maxPath      = 256
)

// appendLine writes a record as one line of JSON with a fixed order of keys. Fields that are empty or zero are
// left out, except those that every line has.
func appendLine(b []byte, r *Record) []byte {
	b = append(b, `{"time":"`...)
	b = r.Arrival.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","requestId":`...)
	b = appendString(b, r.RequestID, len(r.RequestID))
	b = appendText(b, `,"clientRequestId":`, r.ClientRequestID, maxPath)
	b = appendText(b, `,"authType":`, r.AuthMode, maxPath)
	b = appendText(b, `,"key":`, r.Caller, maxPath)
	b = appendText(b, `,"callerId":`, r.CallerID, maxPath)
	b = appendText(b, `,"endpoint":`, r.Endpoint, maxPath)
	b = appendText(b, `,"deployment":`, r.Deployment, maxPath)
	b = appendNumber(b, `,"generation":`, r.Generation)
	b = appendText(b, `,"modelDigest":`, r.ModelDigest, maxPath)
	b = appendText(b, `,"instance":`, r.Instance, maxPath)
	b = append(b, `,"method":`...)
	b = appendString(b, r.Method, maxPath)
	b = append(b, `,"path":`...)
	b = appendString(b, r.Path, maxPath)
	b = append(b, `,"protocol":`...)
	b = appendString(b, r.Protocol, maxPath)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = appendText(b, `,"reason":`, r.Reason, maxPath)
	b = appendNumber(b, `,"modelStatus":`, int64(r.ModelStatus))
	b = appendText(b, `,"cache":`, r.Cache, maxPath)
	if r.Mirror {
		b = append(b, `,"mirror":true`...)
	}
	if r.SoftFailure {
		b = append(b, `,"softFailure":true`...)
	}
	b = append(b, `,"requestBytes":`...)
	b = strconv.AppendInt(b, r.RequestBytes, 10)
	b = append(b, `,"responseBytes":`...)
	b = strconv.AppendInt(b, r.ResponseBytes, 10)
	b = appendText(b, `,"userAgent":`, r.UserAgent, maxUserAgent)
	b = appendMs(b, `,"requestMs":`, r.Upload)
	b = appendMs(b, `,"queueMs":`, r.Queue)
	b = appendMs(b, `,"responseMs":`, r.FirstByte)
	b = appendMs(b, `,"modelMs":`, r.Service)
	b = appendMs(b, `,"totalMs":`, r.Total)
	return append(b, "}\n"...)
}

func appendText(b []byte, key, value string, limit int) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, key...), value, limit)
}

func appendNumber(b []byte, key string, value int64) []byte {
	if value == 0 {
		return b
	}
	return strconv.AppendInt(append(b, key...), value, 10)
}

// appendMs writes milliseconds with three decimals.
func appendMs(b []byte, key string, d time.Duration) []byte {
	b = append(b, key...)
	us := max(d.Microseconds(), 0)
	b = strconv.AppendInt(b, us/1000, 10)
	rest := us % 1000
	return append(b, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
}

const hexDigits = "0123456789abcdef"

// appendString writes at most limit bytes of s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string, limit int) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if i >= limit {
				break
			}
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < 0x20 || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if i+n > limit {
			break
		}
		if r == utf8.RuneError && n == 1 {
			b = append(b, "\ufffd"...)
		} else {
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return append(b, '"')
}
