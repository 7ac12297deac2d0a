package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// app returns the app's environment that doctor is to examine, or nil if it is to examine an exchange.
func (c *call) app(ctx context.Context) (*doctor.App, error) {
	file := c.given["app-env"]
	if c.given["trust-policy"] != "" {
		if file != "" || c.on("app") {
			return nil, usagef("--trust-policy is about the exchange; run doctor for it without --app")
		}
		return nil, nil
	}
	if file == "" {
		if !c.on("app") && !doctor.IsApp(os.Getenv) {
			return nil, nil
		}
		app := doctor.App{Env: make(map[string]string)}
		for _, entry := range os.Environ() {
			name, value, _ := strings.Cut(entry, "=")
			app.Env[name] = value
		}
		return &app, nil
	}
	document, ended, err := readInput(ctx, file, c.stdin)
	if ctx.Err() != nil {
		return nil, errors.New("doctor: interrupted before the app's environment was read")
	}
	if err != nil {
		return nil, usagef("--app-env: %w", err)
	}
	if !ended {
		return nil, fmt.Errorf("doctor: --app-env %s was not closed within %s", file, inputLimit)
	}
	app, err := doctor.ReadApp(document)
	if err != nil {
		if file == "-" {
			file = "standard input"
		}
		return nil, usagef("--app-env: %s %w", file, err)
	}
	return app, nil
}
