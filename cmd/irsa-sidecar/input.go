package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// The doctor promises to end within 15 seconds, and some more for a chain of roles, also where its input never ends.
const (
	doctorMargin = 500 * time.Millisecond // over the time of the examination
	inputLimit   = 8 * time.Second
)

// input is what has been read so far.
type input struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (i *input) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.text.Write(p)
}

// readInput reads a file that a flag names, or standard input for "-", up to the longest text in which a trust policy may
// be. A pipe whose writer does not close it has not ended after [inputLimit]; text is then what it has sent.
func readInput(ctx context.Context, name string, stdin io.Reader) (text []byte, ended bool, err error) {
	var read input
	done := make(chan error, 1)
	go func() { done <- read.from(name, stdin) }()
	limit := time.NewTimer(inputLimit)
	defer limit.Stop()
	select {
	case err = <-done:
		ended = true
	case <-limit.C:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	read.mu.Lock()
	defer read.mu.Unlock()
	return append([]byte{}, read.text.Bytes()...), ended, err
}

func (i *input) from(name string, stdin io.Reader) error {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("%s cannot be read: %w", name, cache.Innermost(err))
		}
		defer file.Close()
		stdin = file
	}
	if _, err := io.Copy(i, io.LimitReader(stdin, trustpolicy.MaxInput+1)); err != nil {
		return fmt.Errorf("%s cannot be read: %w", name, cache.Innermost(err))
	}
	return nil
}
