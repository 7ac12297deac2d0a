// Package webidentity exchanges a Pod's projected token for temporary credentials: token file and
// STS AssumeRoleWithWebIdentity in, cache.Credentials out.
//
// It does not retry. One Fetch makes one exchange, and the cache decides when to make another.
package webidentity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// Options say which role, with which token, at which STS.
type Options struct {
	RoleARN   string
	TokenFile string

	// SessionName is made fit by [SessionName]. Empty means <namespace>.<pod> as the first token that
	// is read says, else the host name. It stays the same for the Provider's life, because policies
	// and MSK tell sessions apart by it.
	SessionName string

	// Duration of the session, in whole seconds. Zero leaves it to STS: one hour.
	Duration time.Duration

	// Policy is a session policy, PolicyARNs are managed ones; both narrow what the role may do.
	Policy     string
	PolicyARNs []string

	// Region of the STS endpoint. Empty means the region in the token's issuer, which EKS puts there.
	Region string

	// Endpoint is an STS of one's own. Empty means AWS's for the region, as FIPS and DualStack say.
	Endpoint        string
	FIPS, DualStack bool

	// Roots verify the endpoint's certificate. Nil means the system's.
	Roots *x509.CertPool

	// Dial opens connections, to the endpoint or to a proxy before it. Nil means a [net.Dialer]'s, which
	// gives up after two seconds.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// AppID is put into the User-Agent. Empty puts nothing there.
	AppID string

	// Logger gets warnings. Nil discards them.
	Logger *slog.Logger
}

// Provider is a credential provider for one role. Its Fetch is a [cache.Fetch].
type Provider struct {
	options   Options
	client    *http.Client
	transport *http.Transport

	naming      sync.Mutex
	sessionName string

	tooLong atomic.Bool // the role's maximum is below Options.Duration
}

// New returns a Provider. It reads no file and asks nobody.
func New(o Options) *Provider {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Provider{options: o}
	if o.SessionName != "" {
		p.sessionName = SessionName(o.SessionName)
	}
	p.client, p.transport = newHTTPClient(o)
	return p
}

// maxMessage bounds what others may make us say, in characters: STS quotes the values that it refuses, in full.
const maxMessage = 1000

// Fetch makes one exchange. The error is always a [*cache.FetchError].
func (p *Provider) Fetch(ctx context.Context) (cache.Credentials, error) {
	// The next exchange is half an hour away: nothing is gained by holding the connection.
	defer p.transport.CloseIdleConnections()

	token, claims, err := ReadToken(p.options.TokenFile)
	if err != nil {
		failure := err.(*cache.FetchError)
		failure.Message = presentable(failure.Message, maxMessage)
		failure.Changed = p.changedFrom("")
		return cache.Credentials{}, failure
	}
	creds, failure := p.exchange(ctx, token, claims)
	if failure != nil {
		failure.TokenIssued, failure.TokenExpiration = claims.IssuedAt, claims.Expiration
		failure.Message = presentable(mask(failure.Message, token), maxMessage)
		failure.Names = p.placeholders(claims, token)
		switch failure.Reason {
		case cache.ExpiredTokenException, cache.InvalidIdentityToken, cache.IDPRejectedClaim, cache.InvalidParameterValue, cache.RegionUnknown:
			failure.Changed = p.changedFrom(token)
		}
		return cache.Credentials{}, failure
	}
	return creds, nil
}

// presentable makes text that others have written fit for a log line and an error document: one line, bounded.
func presentable(text string, most int) string { return cache.Shorten(cache.OneLine(text), most) }

// maxName bounds one name in an advice, in characters. The longest subject of a service account has 338; IAM takes
// 255 for a provider's URL, and for a client ID.
const maxName = 340

// placeholders returns what the advice of a failure needs to name what a trust policy must contain for this token.
func (p *Provider) placeholders(claims Claims, token string) map[string]string {
	known := map[string]string{
		"issuer":   strings.TrimPrefix(claims.Issuer, "https://"), // as IAM writes it
		"subject":  claims.Subject,
		"audience": strings.Join(claims.Audience, " or "),
	}
	if account := names.RoleAccount(p.options.RoleARN); account != "" {
		known["partition"], known["account"] = names.RolePartition(p.options.RoleARN), account
	}
	for name, value := range known {
		if value == "" {
			delete(known, name)
			continue
		}
		known[name] = presentable(cache.Scrub(mask(value, token)), maxName)
	}
	return known
}

// mask takes the token out of text, and its signature alone, without which the rest buys nothing.
func mask(text, token string) string {
	text = strings.ReplaceAll(text, token, "[token]")
	if signature := token[strings.LastIndexByte(token, '.')+1:]; len(signature) >= 16 {
		text = strings.ReplaceAll(text, signature, "[token]")
	}
	return text
}

// changedFrom reports whether the file now holds a token other than this one; of the token only the
// sum is kept.
func (p *Provider) changedFrom(token string) func() bool {
	path, sum := p.options.TokenFile, sha256.Sum256([]byte(token))
	return func() bool {
		now, _, err := ReadToken(path)
		return err == nil && sha256.Sum256([]byte(now)) != sum
	}
}

func (p *Provider) exchange(ctx context.Context, token string, claims Claims) (cache.Credentials, *cache.FetchError) {
	region, failure := p.options.region(claims.Issuer)
	if failure != nil {
		return cache.Credentials{}, failure
	}
	client, host := p.newSTS(region)

	input := &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          &p.options.RoleARN,
		RoleSessionName:  new(p.session(claims)),
		WebIdentityToken: &token,
	}
	if p.options.Policy != "" {
		input.Policy = &p.options.Policy
	}
	for _, arn := range p.options.PolicyARNs {
		input.PolicyArns = append(input.PolicyArns, types.PolicyDescriptorType{Arn: &arn})
	}
	if p.options.Duration > 0 && !p.tooLong.Load() {
		input.DurationSeconds = new(int32(p.options.Duration / time.Second))
	}

	output, failure := call(ctx, client, input, host)
	if failure != nil && input.DurationSeconds != nil && strings.Contains(failure.Message, "MaxSessionDuration") {
		p.tooLong.Store(true)
		p.options.Logger.Warn("the role does not allow sessions this long: from now on STS's default is asked for, one hour",
			"duration", p.options.Duration.String(),
			"hint", "raise the role's MaxSessionDuration and restart the sidecar, or lower IRSA_SIDECAR_DURATION")
		input.DurationSeconds = nil
		output, failure = call(ctx, client, input, host)
	}
	if failure != nil {
		return cache.Credentials{}, failure
	}
	creds := cache.Credentials{
		AccessKeyID:     aws.ToString(output.Credentials.AccessKeyId),
		SecretAccessKey: cache.NewSecret(aws.ToString(output.Credentials.SecretAccessKey)),
		SessionToken:    cache.NewSecret(aws.ToString(output.Credentials.SessionToken)),
		Expiration:      aws.ToTime(output.Credentials.Expiration).UTC(),
		RoleARN:         p.options.RoleARN,
		TokenIssued:     claims.IssuedAt,
		TokenExpiration: claims.Expiration,
	}
	creds.ServerTime, _ = awsmiddleware.GetServerTime(output.ResultMetadata)
	if user := output.AssumedRoleUser; user != nil {
		creds.Identity = aws.ToString(user.Arn)
		if fields := strings.Split(creds.Identity, ":"); len(fields) > 5 {
			creds.AccountID = fields[4]
		}
	}
	if err := creds.Check(); err != nil {
		return cache.Credentials{}, err.(*cache.FetchError)
	}
	return creds, nil
}

// region returns the region of the STS for an issuer's tokens.
func (o *Options) region(issuer string) (string, *cache.FetchError) {
	switch {
	case o.Region != "":
		return o.Region, nil
	case names.RegionOfIssuer(issuer) != "":
		return names.RegionOfIssuer(issuer), nil
	case o.Endpoint != "":
		return "us-east-1", nil // unsigned, and addressed by the endpoint: any region will do
	}
	return "", &cache.FetchError{Reason: cache.RegionUnknown,
		Message: fmt.Sprintf("AWS_REGION and AWS_DEFAULT_REGION are not set, and the token's issuer %q is not an EKS cluster's", cache.Scrub(issuer))}
}

// EndpointURL returns where a Provider with these options sends an issuer's tokens. The error is a
// [*cache.FetchError] of the reason RegionUnknown, or the SDK's.
func (o *Options) EndpointURL(ctx context.Context, issuer string) (*url.URL, error) {
	if o.Endpoint != "" {
		return url.Parse(o.Endpoint)
	}
	region, failure := o.region(issuer)
	if failure != nil {
		return nil, failure
	}
	endpoint, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{
		Region: &region, UseFIPS: &o.FIPS, UseDualStack: &o.DualStack,
	})
	return &endpoint.URI, err
}

// call asks once. The SDK returns no error, and no credentials either, for a 200 that is empty or is
// not STS's.
func call(ctx context.Context, client *sts.Client, input *sts.AssumeRoleWithWebIdentityInput, host string) (*sts.AssumeRoleWithWebIdentityOutput, *cache.FetchError) {
	var a answer
	output, err := client.AssumeRoleWithWebIdentity(context.WithValue(ctx, answerKey{}, &a), input)
	if err != nil {
		return nil, explain(err, &a, host)
	}
	if output == nil || output.Credentials == nil {
		return nil, &cache.FetchError{Reason: cache.NotAnSTSEndpoint,
			Message: cache.Scrub(fmt.Sprintf("%s answered %s, without credentials in it", host, a.describe()))}
	}
	return output, nil
}

// newSTS returns a client for the region, and the name of the endpoint for messages.
func (p *Provider) newSTS(region string) (*sts.Client, string) {
	options := sts.Options{
		Region:     region,
		HTTPClient: p.client,
		Retryer:    aws.NopRetryer{}, // the cache owns retries
		AppID:      p.options.AppID,
	}
	host := "STS in " + region
	if p.options.Endpoint != "" {
		options.BaseEndpoint = &p.options.Endpoint
		if u, err := url.Parse(p.options.Endpoint); err == nil {
			host = u.Host
		}
	}
	if p.options.FIPS {
		options.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
	}
	if p.options.DualStack {
		options.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateEnabled
	}
	return sts.New(options), host
}

// session returns the session name, chosen once.
func (p *Provider) session(claims Claims) string {
	p.naming.Lock()
	defer p.naming.Unlock()
	if p.sessionName == "" {
		name := claims.Namespace + "." + claims.Pod
		if claims.Namespace == "" || claims.Pod == "" {
			name, _ = os.Hostname()
		}
		p.sessionName = SessionName(name)
	}
	return p.sessionName
}
