package webidentity

import (
	"context"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// Assume is what AssumeRole has beyond web identity. Empty fields are left out of the request. The Check functions say what
// STS accepts.
type Assume struct {
	// ExternalID is what the role's trust policy compares with sts:ExternalId. AWS does not treat it as a secret, but it
	// is known to two parties only: no message or log line has its value.
	ExternalID string

	// Tags are session tags. Those whose keys are in TransitiveTags stay in sessions that are chained to this one.
	Tags           map[string]string
	TransitiveTags []string

	// SourceIdentity stays in all sessions that are chained to this one, and cannot be changed there.
	SourceIdentity string
}

// Source is the profile whose credentials sign a request.
type Source struct {
	// Profile is its name, for messages.
	Profile string

	// Credentials must not be nil.
	Credentials *cache.Credentials

	// Skew is how far this machine's clock is ahead of STS's, as [cache.Status] has it. The signature's time is corrected
	// by it, because STS refuses one that is more than five minutes off.
	Skew time.Duration
}

// signedCodes maps the errors of STS to Reasons for requests that are signed. Other codes are those of web identity.
// https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
var signedCodes = append([]code{
	{code: "ExpiredToken", reason: cache.ExpiredToken},
	{code: "ExpiredTokenException", reason: cache.ExpiredToken},
	{code: "RequestExpired", reason: cache.RequestExpired},
	{code: "SignatureDoesNotMatch", words: "signature expired", reason: cache.RequestExpired},
	{code: "SignatureDoesNotMatch", words: "signature not yet current", reason: cache.RequestExpired},
	{code: "SignatureDoesNotMatch", reason: cache.SignatureDoesNotMatch},
	{code: "IncompleteSignature", reason: cache.SignatureDoesNotMatch},
	{code: "MissingAuthenticationToken", reason: cache.SignatureDoesNotMatch},
	{code: "MissingAuthenticationTokenException", reason: cache.SignatureDoesNotMatch},
	{code: "UnrecognizedClientException", reason: cache.InvalidClientTokenId},
}, codes...)

// Assume makes one exchange: AssumeRole, signed with the source's credentials, for Options.Assume, which must not be nil. A
// second request follows if STS refuses Options.Duration, as in Fetch, or the time of the signature. The error is always a
// [*cache.FetchError].
func (p *Provider) Assume(ctx context.Context, s Source) (cache.Credentials, error) {
	defer p.transport.CloseIdleConnections()

	signer := &signer{skew: s.Skew}
	creds, err := p.assume(ctx, s, signer)
	if err != nil {
		failure := cache.AsFetchError(err)
		failure.Message = presentable(signer.mask(p.withoutExternalID(failure.Message), s.Credentials), maxMessage)
		failure.Signed, failure.Names = true, p.signedNames(s.Credentials)
		return cache.Credentials{}, failure
	}
	creds.SourceExpiration = s.Credentials.Expiration
	return creds, nil
}

func (p *Provider) assume(ctx context.Context, from Source, signer *signer) (cache.Credentials, error) {
	source := from.Credentials
	claims, err := p.firstToken()
	if err != nil {
		return cache.Credentials{}, err
	}
	region, err := p.options.region(claims.Issuer)
	if err != nil {
		return cache.Credentials{}, err
	}
	options, host := p.newSTS(region)
	options.HTTPSignerV4 = signer
	options.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{
			AccessKeyID: source.AccessKeyID, SecretAccessKey: source.SecretAccessKey.Reveal(), SessionToken: source.SessionToken.Reveal(),
		}, nil
	})
	client := sts.New(options)
	input := p.assumeRole(claims)
	send := func(ctx context.Context) (answer, error) {
		output, err := client.AssumeRole(ctx, input)
		if err != nil || output == nil {
			return answer{}, err
		}
		return answer{output.Credentials, output.AssumedRoleUser, output.ResultMetadata}, nil
	}
	return p.exchange(ctx, func(ctx context.Context, duration *int32) (answer, error) {
		input.DurationSeconds = duration
		if at := signer.now(); !at.Before(source.Expiration) {
			return answer{}, &cache.FetchError{Reason: cache.ExpiredToken,
				Message: fmt.Sprintf("the credentials of the source profile %q expired at %s", from.Profile, source.Expiration.UTC().Format(time.RFC3339))}
		}
		got, clock, err := call(ctx, host, signedCodes, send)
		// The clock was set, or the node suspended, since the source's skew was measured.
		if err != nil && cache.AsFetchError(err).Reason == cache.RequestExpired && !clock.IsZero() {
			signer.skew = time.Now().Round(0).Sub(clock)
			got, _, err = call(ctx, host, signedCodes, send)
		}
		if err != nil {
			return answer{}, p.denied(err, source)
		}
		return got, nil
	})
}

// assumeRole returns the request, but for the duration.
func (p *Provider) assumeRole(claims Claims) *sts.AssumeRoleInput {
	assume := p.options.Assume
	input := &sts.AssumeRoleInput{
		RoleArn:           &p.options.RoleARN,
		RoleSessionName:   new(p.session(claims)),
		ExternalId:        optional(assume.ExternalID),
		SourceIdentity:    optional(assume.SourceIdentity),
		TransitiveTagKeys: assume.TransitiveTags,
		Policy:            optional(p.options.Policy),
		PolicyArns:        p.policyARNs(),
	}
	for _, key := range slices.Sorted(maps.Keys(assume.Tags)) {
		input.Tags = append(input.Tags, types.Tag{Key: &key, Value: new(assume.Tags[key])})
	}
	return input
}

// firstToken returns the claims of the first token that it has read, or none if nothing depends on them. The error is always
// a [*cache.FetchError].
func (p *Provider) firstToken() (Claims, error) {
	if p.options.SessionName != "" && p.options.Region != "" {
		return Claims{}, nil
	}
	p.naming.Lock()
	defer p.naming.Unlock()
	if p.claims == nil {
		_, claims, err := ReadToken(p.options.TokenFile)
		if err != nil {
			failure := cache.AsFetchError(err)
			failure.Changed = p.changedFrom("")
			return Claims{}, failure
		}
		p.claims = &claims
	}
	return *p.claims, nil
}

// denied says in the message of an AccessDenied what STS often leaves out: which role may not assume which, and whether an
// external ID was sent.
func (p *Provider) denied(err error, source *cache.Credentials) *cache.FetchError {
	failure := cache.AsFetchError(err)
	if failure.Reason != cache.AccessDenied {
		return failure
	}
	sent := "without an external ID"
	if p.options.Assume.ExternalID != "" {
		sent = "with an external ID"
	}
	failure.Message = fmt.Sprintf("%s may not assume %s, %s: %s", redact.Scrub(source.RoleARN), p.options.RoleARN, sent, failure.Message)
	return failure
}

// signedNames returns the names with which the advice of a failure says what the policies of both roles must contain.
func (p *Provider) signedNames(source *cache.Credentials) map[string]string {
	known := map[string]string{"role": p.options.RoleARN, "source": source.RoleARN}
	for name, value := range known {
		if value == "" {
			delete(known, name)
			continue
		}
		known[name] = presentable(redact.Scrub(value), maxName)
	}
	return known
}

// withoutExternalID masks the external ID where STS quotes it.
func (p *Provider) withoutExternalID(text string) string {
	id := p.options.Assume.ExternalID
	if id == "" {
		return text
	}
	const masked = "[external ID]"
	text = strings.ReplaceAll(text, "'"+id+"'", "'"+masked+"'")
	if len(id) < 8 { // it may be a part of anything
		return text
	}
	return strings.ReplaceAll(text, id, masked)
}

// A signer signs by STS's clock.
type signer struct {
	skew      time.Duration // of this machine's clock
	signature string        // the last one; empty before
}

func (s *signer) now() time.Time { return time.Now().Round(0).Add(-s.skew) }

// SignHTTP implements [sts.HTTPSignerV4]. The time that the SDK would sign is this machine's.
func (s *signer) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, _ time.Time, o ...func(*v4.SignerOptions)) error {
	err := v4.NewSigner().SignHTTP(ctx, c, r, payloadHash, service, region, s.now(), o...)
	_, s.signature, _ = strings.Cut(r.Header.Get("Authorization"), "Signature=")
	return err
}

// mask removes from text what an endpoint or a proxy may quote of the request: the source's session token, the signature, and
// the key that was never sent.
func (s *signer) mask(text string, source *cache.Credentials) string {
	text = withoutSecret(text, source.SessionToken.Reveal(), "[token]")
	text = withoutSecret(text, source.SecretAccessKey.Reveal(), redact.Mask)
	return withoutSecret(text, s.signature, redact.Mask)
}

// recognizable is how many characters of a secret are enough to find it in a text. The rest may be cut off.
const recognizable = 16

// withoutSecret replaces a secret in text, also one that is cut off or escaped, as in a form or a page.
func withoutSecret(text, secret, mask string) string {
	form := url.QueryEscape(secret)
	small := strings.NewReplacer("%2B", "%2b", "%2F", "%2f", "%3D", "%3d").Replace(form)
	for _, written := range slices.Compact([]string{secret, form, small, html.EscapeString(secret)}) {
		if len(written) < recognizable {
			continue
		}
		for {
			at := strings.Index(text, written[:recognizable])
			if at < 0 {
				break
			}
			end := at + recognizable
			for rest := written[recognizable:]; rest != "" && end < len(text) && text[end] == rest[0]; rest = rest[1:] {
				end++
			}
			text = text[:at] + mask + text[end:]
		}
	}
	return text
}

// The limits of AssumeRole.
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html and API_Tag.html
const (
	maxExternalID     = 1224
	maxTags           = 50
	maxTagKey         = 128
	maxTagValue       = 256
	maxSourceIdentity = 64
)

// CheckExternalID returns what is wrong with an external ID, or nil. Errors of the Check functions continue a sentence that
// begins with where the value came from. This one does not quote it.
func CheckExternalID(id string) error {
	if n := len(id); n < 2 || n > maxExternalID {
		return fmt.Errorf("must have 2 to %d characters, and has %d", maxExternalID, n)
	}
	return onlyHas(id, "ASCII letters, digits and _+=,.@:/-", func(r rune) bool { return word(r) || strings.ContainsRune("+=,.@:/-", r) })
}

// checkTag returns what is wrong with a session tag, or nil.
func checkTag(key, value string) error {
	if err := checkTagKey(key); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(value); n > maxTagValue {
		return fmt.Errorf("has %d characters in the value of %q, and STS accepts %d", n, key, maxTagValue)
	}
	if err := onlyHas(value, tagCharacters, tagCharacter); err != nil {
		return fmt.Errorf("has a value of %q that %w", key, err)
	}
	return nil
}

// checkTagKey returns what is wrong with the key of a session tag, or nil.
func checkTagKey(key string) error {
	if n := utf8.RuneCountInString(key); n < 1 || n > maxTagKey {
		return fmt.Errorf("has a key of %d characters; keys have 1 to %d", n, maxTagKey)
	}
	if err := onlyHas(key, tagCharacters, tagCharacter); err != nil {
		return fmt.Errorf("has a key that %w", err)
	}
	if strings.HasPrefix(strings.ToLower(key), "aws:") {
		return fmt.Errorf("has the key %q; keys that begin with aws: are reserved for AWS", key)
	}
	return nil
}

// CheckTags returns what is wrong with the session tags of one request, or nil: with a single tag, with their number, with two
// keys that differ in case only, or with a transitive tag that is not among them.
func CheckTags(tags map[string]string, transitive []string) error {
	if len(tags) > maxTags {
		return fmt.Errorf("has %d tags, and STS accepts %d", len(tags), maxTags)
	}
	keys := make(map[string]string, len(tags)) // as STS compares them
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if err := checkTag(key, tags[key]); err != nil {
			return err
		}
		low := strings.ToLower(key)
		if other, twice := keys[low]; twice {
			return fmt.Errorf("has the keys %q and %q; STS ignores the case of a key", other, key)
		}
		keys[low] = key
	}
	if len(transitive) > maxTags {
		return fmt.Errorf("has %d transitive tags, and STS accepts %d", len(transitive), maxTags)
	}
	for _, key := range transitive {
		if _, exists := keys[strings.ToLower(key)]; !exists {
			return fmt.Errorf("has the transitive tag %q, which is not one of the tags", key)
		}
	}
	return nil
}

// CheckSourceIdentity returns what is wrong with a source identity, or nil.
func CheckSourceIdentity(identity string) error {
	if n := len(identity); n < 2 || n > maxSourceIdentity {
		return fmt.Errorf("must have 2 to %d characters, and has %d", maxSourceIdentity, n)
	}
	if strings.HasPrefix(strings.ToLower(identity), "aws:") {
		return errors.New("must not begin with aws:, which is reserved for AWS")
	}
	return onlyHas(identity, "ASCII letters, digits and _+=,.@-", func(r rune) bool { return word(r) || strings.ContainsRune("+=,.@-", r) })
}

// word reports whether r matches \w, which is ASCII's in AWS's expressions.
func word(r rune) bool {
	return r == '_' || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

const tagCharacters = "letters, digits, blanks and _.:/=+@-"

// tagCharacter reports whether r matches [\p{L}\p{Z}\p{N}_.:/=+\-@].
func tagCharacter(r rune) bool {
	return unicode.In(r, unicode.L, unicode.Z, unicode.N) || strings.ContainsRune("_.:/=+-@", r)
}

// onlyHas returns an error, as a predicate, if text has a character that may not be in it. It shows that character alone.
func onlyHas(text, allowed string, ok func(rune) bool) error {
	at := strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError || !ok(r) })
	if at < 0 {
		return nil
	}
	r, _ := utf8.DecodeRuneInString(text[at:])
	return fmt.Errorf("contains %q; STS accepts %s", r, allowed)
}
