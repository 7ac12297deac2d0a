//go:build linux

package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	tokenPath     = "/latest/api/token"
	rolePath      = "/latest/meta-data/iam/security-credentials/bench"
	tokenHeader   = "X-Aws-Ec2-Metadata-Token"
	ttlHeader     = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	longestTTL    = "21600"
	metadataFirst = "IMDS, "
	tokenFirst    = "IMDS tokens, "
	socketFirst   = "socket, "
)

// outputShapes are those of the container endpoint with fewer connections: with every output on, each has fewer places.
var outputShapes = []shape{
	{"k1", 1, false},
	{"k16", 16, false},
	{"c1", 1, true},
	{"c16", 16, true},
}

// outputHandlers measures the handlers of the outputs besides the container endpoint alone, without sockets.
func (b *bench) outputHandlers(ctx context.Context, rounds options) ([]*step, error) {
	o, err := b.warm(ctx, 1)
	if err != nil {
		return nil, err
	}
	metadata := server.NewIMDS(o, server.IMDS{Addresses: []netip.AddrPort{o.Address}, Profile: profileName(0)})
	put := handlerRequest(http.MethodPut, tokenPath, ttlHeader, longestTTL)
	token := httptest.NewRecorder()
	metadata.ServeHTTP(token, put)
	tokens := b.handler(tokenFirst+"handler", metadata, put, rounds)
	tokens.measures[0].limit = 0 // an SDK gets one in six hours
	return []*step{
		b.handler(metadataFirst+"handler", metadata, handlerRequest(http.MethodGet, rolePath, tokenHeader, token.Body.String()), rounds),
		tokens,
		b.handler(socketFirst+"handler", server.Socket(o), handlerRequest(http.MethodGet, "/v1/credentials"), rounds),
	}, nil
}

// startOutputs starts a sidecar with every output that it has. Its target is still the container endpoint.
func (b *bench) startOutputs(ctx context.Context, dir, name string) (c *child, metadata, socket string, err error) {
	ecs, metadata, err := freePorts()
	if err != nil {
		return nil, "", "", err
	}
	socket = filepath.Join(dir, name+"-socket")
	c, err = b.startSidecarWith(ctx,
		"IRSA_SIDECAR_ECS_LISTEN="+ecs,
		"IRSA_SIDECAR_IMDS_LISTEN="+metadata,
		"IRSA_SIDECAR_SOCKET="+socket,
		"IRSA_SIDECAR_CREDENTIALS_FILE="+filepath.Join(dir, name+"-credentials"),
		"IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true",
		"IRSA_SIDECAR_PROCESS_FILE="+filepath.Join(dir, name+"-process"))
	return c, metadata, socket, err
}

// outputs measures the speed of the instance metadata service and of the Unix socket as [bench.requests] does that of the container
// endpoint: beside a bare server that is asked in the same way, and writes the same bytes.
func (b *bench) outputs(ctx context.Context, dir string, o options) (steps []*step, err error) {
	ours, metadata, socket, err := b.startOutputs(ctx, dir, "busy")
	if err != nil {
		return nil, err
	}
	b.children = append(b.children, ours)
	if err := ours.ready(); err != nil {
		return nil, err
	}
	put := func(address string) target {
		return newTarget(address, http.MethodPut, tokenPath, ttlHeader+": "+longestTTL+"\r\n")
	}
	token, err := put(metadata).ask()
	if err != nil {
		return nil, err
	}
	o.n /= 2 // of each of many rows; the p99 has ten requests beyond it
	for _, one := range []struct {
		prefix  string
		address string
		at      func(address string) target
		shapes  []shape
		header  []string // of the answer, besides those of the container endpoint
	}{
		{metadataFirst, metadata, func(address string) target {
			return newTarget(address, http.MethodGet, rolePath, tokenHeader+": "+token.body+"\r\n")
		}, outputShapes, []string{"Content-Type", "text/plain", "Server", "EC2ws"}},
		{tokenFirst, metadata, put, outputShapes[2:3], []string{"Content-Type", "text/plain", "Server", "EC2ws", ttlHeader, longestTTL}},
		{socketFirst, socket, func(address string) target { return newTarget(address, http.MethodGet, "/v1/credentials", "") }, outputShapes, nil},
	} {
		ours := one.at(one.address)
		answer, err := ours.ask()
		if err != nil {
			return nil, err
		}
		address := socket + "-bare"
		if !isPath(one.address) {
			if address, _, err = freePorts(); err != nil {
				return nil, err
			}
		}
		bare, err := b.startBareAt(ctx, address, answer.body, one.header...)
		if err != nil {
			return nil, err
		}
		b.children = append(b.children, bare)
		bare.target = one.at(address)
		other, err := bare.ask()
		if err != nil {
			return nil, err
		}
		size := len(other.raw)
		if one.prefix == tokenFirst { // no two tokens are the same
			answer.raw, _, _ = strings.Cut(answer.raw, "\r\n\r\n")
			other.raw, _, _ = strings.Cut(other.raw, "\r\n\r\n")
		}
		if err := alike(answer, other); err != nil {
			return nil, err
		}
		more, err := shaped(one.shapes, one.prefix, pair[target]{ours, bare.target}, size, o)
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
	return steps, nil
}

// restOutputs measures what a sidecar with every output costs without requests, as [bench.rest] does. What one costs whose outputs
// are off is measured there.
func (b *bench) restOutputs(ctx context.Context, dir string, o options) (*step, error) {
	var all []*child
	for i := range 3 {
		c, err := b.workedWith(ctx, outputShapes[1], func(ctx context.Context) (*child, error) {
			c, _, _, err := b.startOutputs(ctx, dir, profileName(i))
			return c, err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	since := time.Now()
	return &step{
		name: "rest with outputs", least: len(all), most: len(all),
		measures: []measure{
			{name: "at rest with every output, RSS, MiB", margin: 0.03},
			{name: "at rest with every output, RssAnon, MiB", margin: 0.06},
		},
		round: func(ctx context.Context, round int) ([]pair[float64], error) {
			if err := sleepUntil(ctx, since.Add(o.rest)); err != nil {
				return nil, err
			}
			rss, anon, err := all[round].resident()
			return []pair[float64]{{ours: rss}, {ours: anon}}, err
		},
	}, nil
}
