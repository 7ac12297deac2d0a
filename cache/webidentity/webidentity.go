// Package webidentity exchanges a Pod's projected token for temporary credentials: it reads the token file, calls
// AssumeRoleWithWebIdentity of STS, and returns [cache.Credentials]. With those of another role it calls AssumeRole, for a
// role that is chained to it.
//
// It does not retry: the cache decides when to make another exchange. A second request within one exchange only corrects
// the first by what STS has said about it: it has no duration, or the time of STS's clock.
//
// Functions that can fail return an error; where it is always a [*cache.FetchError] they say so.
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
	"github.com/aws/smithy-go/middleware"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// Options say which role to assume, with which token, at which STS. RoleARN and TokenFile are required.
type Options struct {
	RoleARN   string
	TokenFile string

	// Assume makes a Provider whose role is chained to another: [Provider.Assume] is its exchange, and Fetch must not be
	// called. TokenFile then only names the session and the region where SessionName and Region are empty. Nil means
	// web identity.
	Assume *Assume

	// SessionName is passed through [SessionName]. Empty means <namespace>.<pod> from the first token that is read, or
	// the host name if the token lacks them. It is constant for a Provider, because policies and MSK distinguish
	// sessions by name.
	SessionName string

	// Duration is how long the session lasts, in whole seconds. Zero leaves it to STS: one hour.
	Duration time.Duration

	// Policy is a session policy in JSON, PolicyARNs are managed ones; both restrict what the role may do. Empty means
	// none.
	Policy     string
	PolicyARNs []string

	// Region is the region of the STS endpoint. Empty means the region in the token's issuer, where EKS puts it.
	Region string

	// RegionHint is the advice if neither Region nor the issuer names a region. Empty means the usual one.
	RegionHint string

	// Endpoint is the URL of another STS than AWS's. Empty means AWS's in the region, of the kind that FIPS and
	// DualStack select.
	Endpoint        string
	FIPS, DualStack bool

	// Roots verify the endpoint's certificate. Nil means the system's.
	Roots *x509.CertPool

	// Dial opens connections, to the endpoint or to a proxy in front of it. Nil means a [net.Dialer] with a timeout of
	// two seconds.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// AppID is added to the User-Agent. Empty adds nothing.
	AppID string

	// Logger receives warnings. Nil discards them.
	Logger *slog.Logger
}

// Provider gets credentials for one role: by Fetch, which is a [cache.Fetch], or by Assume if Options.Assume is set. A Provider
// may be used by many goroutines at once.
type Provider struct {
	options   Options
	client    *http.Client
	transport *http.Transport

	naming      sync.Mutex
	sessionName string
	claims      *Claims // of the first token that Assume has read

	tooLong atomic.Bool // STS has refused Options.Duration
}

// New returns a Provider. It reads no file and makes no request.
func New(o Options) *Provider {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Provider{options: o}
	p.client, p.transport = newHTTPClient(o)
	return p
}

// maxMessage bounds a message, in characters: STS quotes the values that it refuses in full.
const maxMessage = 1000

// Fetch makes one exchange. If STS refuses Options.Duration as longer than the role allows, it makes a second request
// without one, and so do all further calls. The error is always a [*cache.FetchError].
func (p *Provider) Fetch(ctx context.Context) (cache.Credentials, error) {
	// The next exchange is half an hour away: keeping the connection open has no benefit.
	defer p.transport.CloseIdleConnections()

	token, claims, err := ReadToken(p.options.TokenFile)
	if err != nil {
		failure := cache.AsFetchError(err)
		failure.Message = presentable(failure.Message, maxMessage)
		failure.Changed = p.changedFrom("")
		return cache.Credentials{}, failure
	}
	creds, err := p.exchangeToken(ctx, token, claims)
	if err != nil {
		failure := cache.AsFetchError(err)
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

// presentable makes text of others fit for a log line and an error document: one line of at most most characters.
func presentable(text string, most int) string { return redact.Shorten(redact.OneLine(text), most) }

// maxName bounds one name in an advice, in characters. The subject of a service account has at most 338; IAM accepts 255
// for the URL and for a client ID of a provider.
const maxName = 340

// placeholders returns the names with which the advice of a failure says what the role's trust policy must contain for
// this token.
func (p *Provider) placeholders(claims Claims, token string) map[string]string {
	issuer := claims.Issuer
	if _, rest, ok := strings.Cut(issuer, "://"); ok { // as IAM writes it
		issuer = rest
	}
	known := map[string]string{
		"issuer":   issuer,
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
		known[name] = presentable(redact.Scrub(mask(value, token)), maxName)
	}
	return known
}

// mask removes the token from text, and its signature too: without the signature the rest is worthless.
func mask(text, token string) string {
	text = strings.ReplaceAll(text, token, "[token]")
	if signature := token[strings.LastIndexByte(token, '.')+1:]; len(signature) >= 16 {
		text = strings.ReplaceAll(text, signature, "[token]")
	}
	return text
}

// changedFrom returns a function that reports whether the file now has another token. It keeps the token's checksum alone.
func (p *Provider) changedFrom(token string) func() bool {
	path, sum := p.options.TokenFile, sha256.Sum256([]byte(token))
	return func() bool {
		now, _, err := ReadToken(path)
		return err == nil && sha256.Sum256([]byte(now)) != sum
	}
}

// exchangeToken calls AssumeRoleWithWebIdentity. The error is always a [*cache.FetchError].
func (p *Provider) exchangeToken(ctx context.Context, token string, claims Claims) (cache.Credentials, error) {
	region, err := p.options.region(claims.Issuer)
	if err != nil {
		return cache.Credentials{}, err
	}
	options, host := p.newSTS(region)
	client := sts.New(options)
	creds, err := p.exchange(ctx, func(ctx context.Context, duration *int32) (answer, error) {
		got, _, err := call(ctx, host, codes, func(ctx context.Context) (answer, error) {
			output, err := client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
				RoleArn:          &p.options.RoleARN,
				RoleSessionName:  new(p.session(claims)),
				WebIdentityToken: &token,
				DurationSeconds:  duration,
				Policy:           optional(p.options.Policy),
				PolicyArns:       p.policyARNs(),
			})
			if err != nil || output == nil {
				return answer{}, err
			}
			return answer{output.Credentials, output.AssumedRoleUser, output.ResultMetadata}, nil
		})
		return got, err
	})
	creds.TokenIssued, creds.TokenExpiration = claims.IssuedAt, claims.Expiration
	return creds, err
}

// exchange makes a request, and another one without a duration if STS refuses the duration. The error is always a
// [*cache.FetchError].
func (p *Provider) exchange(ctx context.Context, request func(ctx context.Context, duration *int32) (answer, error)) (cache.Credentials, error) {
	var duration *int32
	if p.options.Duration > 0 && !p.tooLong.Load() {
		duration = new(int32(p.options.Duration / time.Second))
	}
	got, err := request(ctx, duration)
	if err != nil && duration != nil && durationRefused(err) {
		p.tooLong.Store(true)
		p.options.Logger.Warn("the role does not allow sessions this long; requesting STS's default of one hour from now on",
			"duration", p.options.Duration.String(), "hint", p.durationHint())
		got, err = request(ctx, nil)
	}
	if err != nil {
		return cache.Credentials{}, err
	}
	creds := p.credentials(got)
	if err := creds.Check(); err != nil {
		return cache.Credentials{}, err
	}
	return creds, nil
}

// durationRefused reports whether STS refused a duration: it is longer than what the role, or role chaining, allows.
func durationRefused(err error) bool {
	return strings.Contains(err.Error(), "MaxSessionDuration") || strings.Contains(err.Error(), "1 hour session limit")
}

func (p *Provider) durationHint() string {
	if p.options.Assume != nil {
		return "lower the duration to an hour, which is the most for a role that is assumed with another's credentials"
	}
	return "raise the role's MaxSessionDuration and restart the sidecar, or lower IRSA_SIDECAR_DURATION"
}

// policyARNs returns the session policies that are managed ones, as requests have them.
func (p *Provider) policyARNs() (policies []types.PolicyDescriptorType) {
	for _, arn := range p.options.PolicyARNs {
		policies = append(policies, types.PolicyDescriptorType{Arn: &arn})
	}
	return policies
}

// optional returns a parameter's value, or nil to leave the parameter out.
func optional(value string) *string {
	if value == "" {
		return nil
	}
	return &value
}

// answer is what STS issues, by either action. Fields that it has left out are nil.
type answer struct {
	credentials *types.Credentials
	user        *types.AssumedRoleUser
	metadata    middleware.Metadata
}

// credentials returns what STS has issued. Fields that it has left out are empty.
func (p *Provider) credentials(got answer) cache.Credentials {
	creds := cache.Credentials{
		AccessKeyID:     aws.ToString(got.credentials.AccessKeyId),
		SecretAccessKey: cache.NewSecret(aws.ToString(got.credentials.SecretAccessKey)),
		SessionToken:    cache.NewSecret(aws.ToString(got.credentials.SessionToken)),
		Expiration:      aws.ToTime(got.credentials.Expiration).UTC(),
		RoleARN:         p.options.RoleARN,
	}
	creds.ServerTime, _ = awsmiddleware.GetServerTime(got.metadata)
	if got.user != nil {
		creds.Identity = aws.ToString(got.user.Arn)
		if fields := strings.Split(creds.Identity, ":"); len(fields) > 5 {
			creds.AccountID = fields[4]
		}
	}
	return creds
}

// region returns the region of the STS for an issuer's tokens. The error is a [*cache.FetchError] with the reason
// RegionUnknown.
func (o *Options) region(issuer string) (string, error) {
	switch {
	case o.Region != "":
		return o.Region, nil
	case names.RegionOfIssuer(issuer) != "":
		return names.RegionOfIssuer(issuer), nil
	case o.Endpoint != "":
		return "us-east-1", nil // Endpoint is the address; only signatures have a region, which an STS that is not AWS's ignores
	}
	return "", &cache.FetchError{Reason: cache.RegionUnknown, Hint: o.RegionHint,
		Message: fmt.Sprintf("AWS_REGION and AWS_DEFAULT_REGION are not set, and the token's issuer %q is not an EKS cluster's", redact.Scrub(issuer))}
}

// KnownRegion returns the region that an exchange is made in: Region, or that of the token's issuer. It is empty if neither names
// one, or while there is no token.
func (o *Options) KnownRegion() string {
	if o.Region != "" && o.Region != "aws-global" {
		return o.Region
	}
	_, claims, err := ReadToken(o.TokenFile)
	if err != nil {
		return ""
	}
	return names.RegionOfIssuer(claims.Issuer)
}

// EndpointURL returns the URL to which a Provider with these options sends an issuer's tokens. The error is a
// [*cache.FetchError] with the reason RegionUnknown, or comes from [url.Parse] or the SDK.
func (o *Options) EndpointURL(ctx context.Context, issuer string) (*url.URL, error) {
	if o.Endpoint != "" {
		return url.Parse(o.Endpoint)
	}
	region, err := o.region(issuer)
	if err != nil {
		return nil, err
	}
	endpoint, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{
		Region: &region, UseFIPS: &o.FIPS, UseDualStack: &o.DualStack,
	})
	return &endpoint.URI, err
}

// call makes one request, and returns the clock of who responded; zero if unknown. The error is always a [*cache.FetchError],
// by the given table of codes. For a 200 that is empty or not STS's, the SDK returns neither an error nor credentials.
func call(ctx context.Context, host string, table []code, send func(ctx context.Context) (answer, error)) (answer, time.Time, error) {
	var got response
	sent, err := send(context.WithValue(ctx, responseKey{}, &got))
	if err != nil {
		return answer{}, got.clock, explain(err, &got, host, table)
	}
	if sent.credentials == nil {
		return answer{}, got.clock, &cache.FetchError{Reason: cache.NotAnSTSEndpoint,
			Message: redact.Scrub(fmt.Sprintf("%s answered %s, without credentials in it", host, got.describe()))}
	}
	return sent, got.clock, nil
}

// newSTS returns options for the STS in the region, and what to call the endpoint in messages.
func (p *Provider) newSTS(region string) (sts.Options, string) {
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
	return options, host
}

// session returns the session name, which the first call chooses.
func (p *Provider) session(claims Claims) string {
	p.naming.Lock()
	defer p.naming.Unlock()
	if p.sessionName == "" {
		p.sessionName = p.options.SessionNameFor(claims)
	}
	return p.sessionName
}

// SessionNameFor returns the session name of a first exchange with a token of these claims.
func (o Options) SessionNameFor(claims Claims) string {
	name := o.SessionName
	if name == "" {
		name = claims.Namespace + "." + claims.Pod
		if claims.Namespace == "" || claims.Pod == "" {
			name, _ = os.Hostname()
		}
	}
	return SessionName(name)
}
