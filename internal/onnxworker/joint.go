package onnxworker

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"portico/internal/onnxserve"
)

// Bounds of a joint request: one that the pool made of several that waited.
const (
	jointMax   = 256      // requests of one
	answersMax = 64 << 20 // bytes of the bodies of all answers together
)

// answerJoint serves the requests that lie one behind the other in body, of the sizes that the head names. Their answers
// lie in the body of its answer in the same way. False: the connection broke.
func (l *lane) answerJoint(h *head, body []byte) bool {
	parts, err := split(h.joined, body)
	if err != nil {
		return l.refuse(400, err.Error())
	}
	if !h.numbered {
		return l.refuse(400, "a joint request needs x-portico-number")
	}
	began := time.Now()
	if !l.w.page.start(l.index, h.number) {
		return l.send(notStarted("withdrawn"), nil)
	}
	l.number.Store(h.number)
	answers := l.joint(parts)
	l.number.Store(0)
	size := 0
	for _, a := range answers {
		size += len(a)
	}
	whole := append(appendField(appendStatus(nil, 200), "content-length", strconv.Itoa(size)), "\r\n"...)
	for _, a := range answers {
		whole = append(whole, a...)
	}
	// Sent before the page says that the request ended: who sees the end can read the answer.
	kept := l.send(whole, nil)
	l.w.page.finish(l.index, h.number, time.Since(began))
	return kept
}

// joint gives the answer of each part, with its head.
func (l *lane) joint(parts [][]byte) [][]byte {
	answers := make([][]byte, len(parts))
	heads := make([]head, 0, len(parts))
	var requests []onnxserve.Request
	var at []int
	for i, part := range parts {
		h, body, err := parsePart(part)
		switch {
		case err != nil:
			answers[i] = refusal(err.status, err.message)
		case max(len(h.id), len(h.legacyID), len(h.clientID)) > idMax:
			answers[i] = refusal(431, idTooLong)
		case h.late:
			answers[i] = notStarted("deadline")
		default:
			heads = append(heads, h)
			requests = append(requests, h.request(body))
			at = append(at, i)
		}
	}
	left := answersMax
	l.executor.Joint(requests, func(n int, a onnxserve.Answer) {
		h := &heads[n]
		if a.Terminated {
			l.w.log.Printf("canceled: nobody waits for the answer; request %s", h.id)
		} else if a.Failed {
			l.w.log.Printf("the model failed; request %s: %s", h.id, a.Body)
		}
		if left -= len(a.Body); left < 0 {
			answers[at[n]] = refusal(500, fmt.Sprintf("the answers of a batch have more than %d bytes together", answersMax))
			return
		}
		answers[at[n]] = append(l.appendHead(nil, h, a), a.Body...)
	})
	return answers
}

// split takes the parts of a joint request apart.
func split(sizes, body []byte) ([][]byte, error) {
	var parts [][]byte
	for size := range bytes.SplitSeq(sizes, []byte{','}) {
		n, ok := decimal(size)
		if !ok || len(parts) == jointMax {
			return nil, refusef(400, "malformed x-portico-batch")
		}
		if n > uint64(len(body)) {
			return nil, refusef(400, "x-portico-batch does not add up to the body")
		}
		parts = append(parts, body[:n])
		body = body[n:]
	}
	if len(body) > 0 {
		return nil, refusef(400, "x-portico-batch does not add up to the body")
	}
	return parts, nil
}

// parsePart parses a request that is whole.
func parsePart(part []byte) (head, []byte, *refused) {
	end := bytes.Index(part, []byte("\r\n\r\n"))
	if end < 0 {
		return head{}, nil, &refused{400, "malformed request line"}
	}
	h, err := parseHead(part[:end+2])
	var r *refused
	if errors.As(err, &r) {
		return h, nil, r
	}
	body := part[end+4:]
	if len(body) != h.length {
		return h, nil, &refused{400, "content-length is not the size of the body"}
	}
	return h, body, nil
}
