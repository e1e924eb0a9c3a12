package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A question asks the stream for messages that it has stored.
type question struct {
	Seq       uint64     `json:"seq,omitempty"` // from here on
	StartTime *time.Time `json:"start_time,omitempty"`
	NextFor   string     `json:"next_by_subj,omitempty"`
	LastFor   string     `json:"last_by_subj,omitempty"`
	MultiLast []string   `json:"multi_last,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
}

// An answer is a sequence of messages and an ending.
type answer struct {
	stream string
	take   func(m *nats.Msg, seq uint64)
	last   uint64 // sequence of the message before; owned by the subscription
}

// An ending is what the stream says after the messages, or instead of them.
type ending struct {
	none bool   // nothing matches
	more int    // messages match that did not fit
	upTo uint64 // the replica's last sequence; only for the last messages of subjects
	err  error
}

var (
	errSilent = errors.New("the stream does not answer")
	errHole   = errors.New("a part of the stream's answer was lost")
	errNone   = errors.New("the stream holds no such message")

	errTooMany = errors.New("the stream does not answer for so many subjects at a time")
)

// ask asks any replica, which may lag behind the leader. take gets the messages, in order, on another goroutine. If
// there is an error it may still be called after ask has returned.
func (b *Broker) ask(ctx context.Context, q question, take func(m *nats.Msg, seq uint64)) (ending, error) {
	return b.askOf(ctx, ChatStream, q, take)
}

// askOf is ask of another stream.
func (b *Broker) askOf(ctx context.Context, stream string, q question, take func(m *nats.Msg, seq uint64)) (ending, error) {
	if !b.publisher.online.Load() {
		return ending{}, errOffline
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	request, err := json.Marshal(q)
	if err != nil {
		return ending{}, err
	}
	an := &answer{stream: stream, take: take}
	reply, ended, forget := b.asker.await(an.add)
	defer forget()
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, reply, request); err != nil {
		return ending{}, err
	}
	select {
	case end := <-ended:
		return end, end.err
	case <-ctx.Done():
		return ending{}, context.Cause(ctx)
	}
}

// add takes one more message of an answer and says whether it was the end. Only a
// stored message has a sequence. Each names the one before it: nothing is missed.
func (an *answer) add(m *nats.Msg) (ended bool, end ending) {
	last, _ := strconv.ParseUint(stamp(m, "Nats-Last-Sequence"), 10, 64)
	if stamp(m, "Nats-Sequence") == "" {
		return true, an.end(m, last)
	}
	seq, err := strconv.ParseUint(stamp(m, "Nats-Sequence"), 10, 64)
	if err != nil || last != an.last || seq <= last {
		return true, ending{err: errHole}
	}
	an.last = seq
	an.take(m, seq)
	return false, ending{}
}

func (an *answer) end(m *nats.Msg, last uint64) ending {
	status := m.Header.Get("Status")
	if (status == "204" || status == "404") && last != an.last {
		return ending{err: errHole}
	}
	switch status {
	case "204":
		more, err := strconv.Atoi(stamp(m, "Nats-Num-Pending"))
		upTo, _ := strconv.ParseUint(stamp(m, "Nats-UpTo-Sequence"), 10, 64)
		return ending{more: more, upTo: upTo, err: err}
	case "404":
		return ending{none: true}
	case "413":
		return ending{err: errTooMany}
	case "503":
		return ending{err: fmt.Errorf("%w: %s does not answer", errNoStream, an.stream)}
	}
	return ending{err: fmt.Errorf("stream %s: %s %s", an.stream, status, oneLine(m.Header.Get("Description")))}
}

// scan reads all that a question names, batch by batch, up to a sequence that the
// stream's leader has. A replica that lags is asked again. It ends when take returns
// false.
func (b *Broker) scan(ctx context.Context, q question, upTo uint64, take func(m *nats.Msg, seq uint64) bool) error {
	read, heard := uint64(0), time.Now()
	for {
		batch, err := b.batch(ctx, q)
		if err != nil {
			return err
		}
		for _, m := range batch {
			read = m.seq
			if !take(m.Msg, m.seq) {
				return nil
			}
		}
		switch {
		case read >= upTo:
			return nil
		case len(batch) > 0:
			q.Seq, q.StartTime, heard = read+1, nil, time.Now()
			continue
		case time.Since(heard) > askTimeout: // it was removed meanwhile
			return errSilent
		}
		if err := pause(ctx, lagPause); err != nil {
			return err
		}
	}
}

type sequenced struct {
	*nats.Msg
	seq uint64
}

func (b *Broker) batch(ctx context.Context, q question) (batch []sequenced, err error) {
	_, err = b.ask(ctx, q, func(m *nats.Msg, seq uint64) { batch = append(batch, sequenced{m, seq}) })
	if err != nil {
		return nil, err // and what has come may still grow
	}
	return batch, nil
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// A storedMsg is a message as the stream's leader returns it.
type storedMsg struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Headers []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
}

// askLeader asks the stream's leader for one message, or returns [errNone]. A leader
// that is new may not have all yet that was acknowledged.
func (b *Broker) askLeader(ctx context.Context, q question) (storedMsg, error) {
	return b.askLeaderOf(ctx, ChatStream, q)
}

// askLeaderOf is askLeader of another stream.
func (b *Broker) askLeaderOf(ctx context.Context, stream string, q question) (storedMsg, error) {
	if !b.publisher.online.Load() {
		return storedMsg{}, errOffline
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	request, err := json.Marshal(q)
	if err != nil {
		return storedMsg{}, err
	}
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return storedMsg{}, fmt.Errorf("stream %s: %w", stream, err)
	}
	return parseStored(m.Data)
}

func parseStored(data []byte) (storedMsg, error) {
	var answer struct {
		Error   *streamError `json:"error"`
		Message storedMsg    `json:"message"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return storedMsg{}, err
	}
	if answer.Error == nil {
		return answer.Message, nil
	}
	if answer.Error.ErrCode == int(jetstream.JSErrCodeMessageNotFound) {
		return storedMsg{}, errNone
	}
	return storedMsg{}, answer.Error
}
