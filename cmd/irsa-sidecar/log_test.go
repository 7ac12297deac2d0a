package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reader stands in for the reader of stderr, which may be slow or gone.
type reader struct {
	mu   sync.Mutex
	may  chan struct{} // nil: it reads at once
	err  error
	read bytes.Buffer
}

func (r *reader) Write(p []byte) (int, error) {
	if r.may != nil {
		<-r.may
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	return r.read.Write(p)
}

func (r *reader) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read.String()
}

func TestALogThatNobodyReadsBlocksNobodyAndSaysWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := &reader{may: make(chan struct{})}
		o := &output{to: stuck}
		l := logging{text: true}
		o.reportDrops(l)
		logger := newLogger(l, o)
		const lines = 10_000
		for i := range lines {
			logger.Info("line", "n", i)
		}
		if took := time.Since(epoch()); took != 0 {
			t.Errorf("the log was in the way for %v", took)
		}
		dropped := int(o.dropped.Load())
		if dropped == 0 || len(o.unread) > maxUnread {
			t.Fatalf("%d lines dropped, and %d bytes kept", dropped, len(o.unread))
		}
		close(stuck.may)
		synctest.Wait()
		read := stuck.String()
		if got := strings.Count(read, "msg=line"); got != lines-dropped {
			t.Errorf("%d lines were written and %d dropped, of %d", got, dropped, lines)
		}
		for line := range strings.Lines(read) {
			if !strings.HasPrefix(line, "time=") {
				t.Fatalf("a line that is not whole: %q", line)
			}
		}
		if want := fmt.Sprintf("lines=%d\n", dropped); strings.Count(read, "were dropped") != 1 || !strings.HasSuffix(read, want) {
			t.Errorf("the last line does not say %s: …%s", want, read[max(0, len(read)-200):])
		}
		logger.Info("again")
		synctest.Wait()
		if read := stuck.String(); !strings.HasSuffix(read, "msg=again\n") || strings.Count(read, "were dropped") != 1 {
			t.Errorf("after that: …%s", read[max(0, len(read)-200):])
		}
	})
}

func epoch() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestAClosedStderrIsCountedAndWrittenToAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := &reader{err: errors.New("broken pipe")}
		o := &output{to: closed}
		l := logging{}
		o.reportDrops(l)
		logger := newLogger(l, o)
		for range 3 {
			logger.Info("lost")
			synctest.Wait()
		}
		if o.dropped.Load() != 3 {
			t.Errorf("%d dropped", o.dropped.Load())
		}
		closed.mu.Lock()
		closed.err = nil
		closed.mu.Unlock()
		logger.Info("back")
		synctest.Wait()
		if read := closed.String(); !strings.Contains(read, `"msg":"back"`) || !strings.Contains(read, `"lines":3`) || strings.Contains(read, "lost") {
			t.Errorf("read %s", read)
		}
	})
}

func TestTheEndWaitsForItsLastWordsButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick := &reader{}
		o := &output{to: quick}
		io.WriteString(o, "why\n")
		o.flush()
		if took := time.Since(epoch()); quick.String() != "why\n" || took != 0 {
			t.Errorf("%q after %v", quick.String(), took)
		}
		stuck := &reader{may: make(chan struct{})}
		o = &output{to: stuck}
		io.WriteString(o, "why\n")
		o.flush()
		if took := time.Since(epoch()); took != flushWait {
			t.Errorf("it ended after %v, want %v", took, flushWait)
		}
		close(stuck.may)
	})
}

func TestALineLongerThanTheRoomForItIsDroppedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick := &reader{}
		o := &output{to: quick}
		logger := slog.New(slog.NewTextHandler(o, nil))
		logger.Info(strings.Repeat("x", maxUnread))
		logger.Info("short")
		synctest.Wait()
		if read := quick.String(); strings.Contains(read, "xxx") || !strings.Contains(read, "short") || o.dropped.Load() != 1 {
			t.Errorf("%d dropped, read %.100s", o.dropped.Load(), read)
		}
	})
}

// half takes the first half of what is written to it, once.
type half struct {
	reader
	cut bool
}

func (h *half) Write(p []byte) (int, error) {
	if h.cut {
		return h.reader.Write(p)
	}
	h.cut = true
	n, _ := h.reader.Write(p[:len(p)/2])
	return n, errors.New("no space left on device")
}

func TestALineThatIsCutIsNotTheBeginningOfTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &half{}
		o := &output{to: disk}
		for _, line := range []string{"the first line\n", "the second line\n"} {
			io.WriteString(o, line)
			synctest.Wait()
		}
		if got := disk.String(); got != "the fir\nthe second line\n" {
			t.Errorf("%q", got)
		}
	})
}
