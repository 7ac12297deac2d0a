package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// runCredentials makes one exchange, without a running sidecar.
func runCredentials(ctx context.Context, c *call) error {
	config, err := c.usable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	logger := newLogger(config, c.stderr)
	for _, w := range config.warnings {
		logger.Warn(w)
	}
	creds, err := config.provider(logger).Fetch(ctx)
	if err != nil {
		return withHint(err)
	}
	render := server.ProcessCredentials
	if c.given["format"] == "env" {
		render = server.ShellCredentials
	}
	_, err = c.stdout.Write(render(&creds))
	return err
}

// withHint adds what to do, on the same line: the last line on stderr is what a Pod's status shows.
func withHint(err error) error {
	if fe, ok := errors.AsType[*cache.FetchError](err); ok {
		return fmt.Errorf("%w; hint: %s", err, fe.ShortAdvice())
	}
	return err
}
