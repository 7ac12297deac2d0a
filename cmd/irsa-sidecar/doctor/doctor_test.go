package doctor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// The state of a Pod after the fixes in the report have been applied.
const (
	fixed     = iota // the exchange works, and the finding is gone
	forPeople        // the fixes are not enough: a clock, a firewall, AWS itself, or a decision
	inTheApp         // the fixes are for the app's container, which then asks the sidecar
)

// faults has a row for every error of STS and every check. The key is that of the decisive finding.
var faults = []struct {
	name  string
	fault func(*world)
	key   string
	ends  int
}{
	{"no-environment", func(w *world) { delete(w.env, "AWS_ROLE_ARN"); delete(w.env, "AWS_WEB_IDENTITY_TOKEN_FILE") }, "NotAnnotated", fixed},
	{"no-pod", func(w *world) {
		delete(w.env, "KUBERNETES_SERVICE_HOST")
		delete(w.env, "AWS_ROLE_ARN")
		delete(w.env, "AWS_WEB_IDENTITY_TOKEN_FILE")
	}, "NotAPod", forPeople},
	{"no-pod-and-given-policy", func(w *world) {
		delete(w.env, "KUBERNETES_SERVICE_HOST")
		delete(w.env, "AWS_ROLE_ARN")
		delete(w.env, "AWS_WEB_IDENTITY_TOKEN_FILE")
		w.give(w.trust("\n          \""+identity().Provider()+":aud\": \"sts.amazonaws.com\",", ""))
	}, "NotAPod", forPeople},
	{"no-role", func(w *world) { delete(w.env, "AWS_ROLE_ARN") }, "HalfAnnotated", fixed},
	{"no-token-file", func(w *world) { delete(w.env, "AWS_WEB_IDENTITY_TOKEN_FILE") }, "HalfAnnotated", fixed},
	{"misspelt-names", func(w *world) {
		w.misspell("AWS_ROLE_ARN", "AWS_ROLE_ARM")
		w.misspell("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKENFILE")
	}, "NotAnnotated", fixed},
	{"misspelt-role", func(w *world) { w.misspell("AWS_ROLE_ARN", "AWS_ROLE_ARM") }, "HalfAnnotated", fixed},
	{"availability-zone", func(w *world) {
		w.mistake("AWS_REGION", "eu-west-1a", `"eu-west-1a" is an availability zone: its region is eu-west-1`)
	}, "ConfigurationMistake", fixed},
	{"partition", func(w *world) {
		w.mistake("AWS_REGION", "cn-north-1", "cn-north-1 is in the partition aws-cn, but the role in AWS_ROLE_ARN is in aws")
	}, "ConfigurationMistake", fixed},
	{"plain-http", func(w *world) {
		w.mistake("AWS_ENDPOINT_URL_STS", "http://sts.example", "would send the token unencrypted to sts.example: plain http is for loopback only, use https")
	}, "ConfigurationMistake", fixed},
	{"key-id-overwritten-by-the-secret", func(w *world) { w.env["AWS_ACCESS_KEY_ID"] = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }, "KeyPairBroken", fixed},
	{"static-keys", func(w *world) {
		w.env["AWS_ACCESS_KEY_ID"], w.env["AWS_SECRET_ACCESS_KEY"] = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	}, "StaticKeys", fixed},
	{"session-keys-without-token", func(w *world) {
		w.env["AWS_ACCESS_KEY_ID"], w.env["AWS_SECRET_ACCESS_KEY"] = "ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	}, "KeyPairBroken", fixed},
	{"profile", func(w *world) { w.env["AWS_PROFILE"] = "dev" }, "ProfileSet", fixed},
	{"shadowed", func(w *world) {
		w.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://" + w.options.Listen.String() + "/v1/credentials"
	}, "Shadowed", inTheApp},
	{"pod-identity", func(w *world) { w.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://169.254.170.23/v1/credentials" }, "PodIdentity", forPeople},

	{"role-name", func(w *world) {
		w.annotation = "app"
		w.mistake("AWS_ROLE_ARN", "app", `"app" is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>`)
	}, "RoleARNMalformed", fixed},

	{"role-with-a-line-break", func(w *world) { w.wrongRole(roleARN + "\n") }, "RoleARNMalformed", fixed},
	{"role-in-quotes", func(w *world) { w.wrongRole(`"` + roleARN + `"`) }, "RoleARNMalformed", fixed},
	{"role-in-capitals", func(w *world) { w.wrongRole("arn:aws:IAM::" + account + ":role/team/app") }, "RoleARNMalformed", fixed},
	{"role-session", func(w *world) { w.wrongRole("arn:aws:sts::" + account + ":assumed-role/app/session") }, "RoleARNMalformed", fixed},
	{"role-policy", func(w *world) { w.wrongRole("arn:aws:iam::aws:policy/ReadOnlyAccess") }, "RoleARNMalformed", fixed},

	{"token-missing", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = w.file.Path() + "s" }, "TokenFileMissing", fixed},
	{"token-directory-missing", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = filepath.Join(w.dir, "nowhere", "token") }, "TokenFileMissing", fixed},
	{"token-is-a-directory", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = filepath.Dir(w.file.Path()) }, "TokenFileUnreadable", fixed},
	{"token-is-a-device", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "/dev/null" }, "TokenFileUnreadable", forPeople},
	{"token-is-a-path", func(w *world) { w.write("/var/run/secrets/eks.amazonaws.com/serviceaccount/token") }, "TokenFileMalformed", fixed},
	{"token-garbled", func(w *world) { w.write(w.newToken() + "\nI1126 19:00:00 klog") }, "TokenFileMalformed", fixed},
	{"token-copied", func(w *world) { w.copyToken() }, "TokenFileStatic", fixed},
	{"token-subpath", func(w *world) {
		path := w.copyToken()
		w.place("/proc/self/mountinfo", "22 1 0:21 / / rw - overlay overlay rw\n36 22 0:32 /x "+path+" ro - tmpfs tmpfs rw\n")
	}, "TokenFileStatic", fixed},
	{"token-expired", func(w *world) { w.age = 26 * time.Hour; w.write(w.newToken()) }, "ExpiredTokenException", fixed},
	{"token-copied-and-expired", func(w *world) { w.age = 26 * time.Hour; w.write(w.newToken()); w.copyToken(); w.age = 0 }, "ExpiredTokenException", fixed},
	{"token-not-rotated", func(w *world) { w.age = 21 * time.Hour; w.write(w.newToken()) }, "TokenNotRotated", fixed},
	{"token-from-the-future", func(w *world) { w.age = -10*time.Minute - 30*time.Second; w.write(w.newToken()) }, "TokenFromTheFuture", fixed},
	{"token-from-the-future-here-only", func(w *world) {
		w.age = -10*time.Minute - 30*time.Second
		w.write(w.newToken())
		w.skew(11*time.Minute + 20*time.Second)
	}, "TokenFromTheFuture", forPeople},
	{"token-from-the-future-and-ahead", func(w *world) {
		w.age = -40*time.Minute - 30*time.Second
		w.write(w.newToken())
		w.skew(-30*time.Minute - 20*time.Second)
	}, "TokenFromTheFuture", fixed},
	{"token-expired-here-only", func(w *world) {
		w.age = 24*time.Hour + 10*time.Minute + 30*time.Second
		w.write(w.newToken())
		w.skew(-30*time.Minute - 20*time.Second)
	}, "ExpiredTokenException", forPeople},
	{"audience-legacy", func(w *world) { w.claims.Audience = []string{}; w.write(w.newToken()); w.claims.Audience = nil }, "TokenLegacy", fixed},
	{"audience-typo", func(w *world) {
		w.claims.Audience = []string{"sts.amazon.com"}
		w.write(w.newToken())
		w.allow("sts.amazon.com")
	}, "AudienceNotRegistered", fixed},
	{"audience-of-its-own", func(w *world) {
		w.claims.Audience = []string{"vault"}
		w.write(w.newToken())
		w.allow("vault")
		w.sts.Change(func(o *ststest.Options) { o.Providers[0].ClientIDs = []string{"vault"} })
	}, "AudienceUnusual", forPeople},
	{"another-namespace", func(w *world) {
		w.place("/var/run/secrets/kubernetes.io/serviceaccount/namespace", "shop\n")
		w.claims.Namespace = "checkout"
		w.write(w.newToken())
		w.claims.Namespace = "shop"
	}, "NamespaceMismatch", fixed},
	{"subject-of-nobody", func(w *world) { w.write(unsigned(w, func(c map[string]any) { c["sub"] = "alice@example.com" })) }, "SubjectUnusual", fixed},
	{"token-without-an-end", func(w *world) { w.write(unsigned(w, func(c map[string]any) { delete(c, "exp") })) }, "TokenClaimMissing", fixed},
	{"token-without-a-subject", func(w *world) { w.write(unsigned(w, func(c map[string]any) { delete(c, "sub") })) }, "TokenClaimMissing", fixed},
	{"token-without-a-start", func(w *world) { w.write(unsigned(w, func(c map[string]any) { delete(c, "iat") })) }, "TokenClaimMissing", fixed},
	{"token-without-an-issuer", func(w *world) { w.write(unsigned(w, func(c map[string]any) { delete(c, "iss") })) }, "TokenClaimMissing", fixed},
	{"token-of-a-secret", func(w *world) {
		w.write(unsigned(w, func(c map[string]any) {
			delete(c, "exp")
			delete(c, "iat")
			delete(c, "aud")
			c["iss"] = "kubernetes/serviceaccount"
		}))
	}, "TokenLegacy", fixed},
	{"token-with-a-fraction", func(w *world) { w.write(unsigned(w, func(c map[string]any) { c["exp"] = 4102444800.5 })) }, "TokenClaimMalformed", fixed},
	{"token-in-milliseconds", func(w *world) { w.write(unsigned(w, func(c map[string]any) { c["exp"] = 4102444800000 })) }, "TokenClaimMalformed", fixed},
	{"token-with-a-date", func(w *world) { w.write(unsigned(w, func(c map[string]any) { c["iat"] = "2026-01-01T00:00:00Z" })) }, "TokenClaimMalformed", fixed},
	{"sts-misses-a-claim", func(w *world) {
		w.sts.Break(ststest.Fault{Status: 400, Code: "InvalidIdentityToken", Message: "Missing a required claim: sub"})
	}, "TokenClaimMissing", forPeople},
	{"sts-misses-the-audience", func(w *world) {
		w.sts.Break(ststest.Fault{Status: 400, Code: "InvalidIdentityToken", Message: "Missing a required claim: aud"})
	}, "TokenLegacy", forPeople},
	{"token-wrapped", func(w *world) {
		token := w.newToken()
		w.write(token[:76] + "\n" + token[76:152] + "\n" + token[152:])
	}, "TokenFileMalformed", fixed},
	{"token-path-with-a-blank", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = w.file.Path() + " " }, "TokenFileMissing", fixed},
	{"token-path-in-quotes", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = `"` + w.file.Path() + `"` }, "TokenFileMissing", fixed},
	{"token-path-with-a-tilde", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "~/token" }, "TokenFileMissing", fixed},
	{"token-path-relative", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "serviceaccount/token" }, "TokenFileMissing", fixed},
	{"token-path-too-far", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = w.file.Path() + "/token" }, "TokenFileUnreadable", fixed},
	{"token-path-too-long", func(w *world) { w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "/" + strings.Repeat("token", 60) }, "TokenFileUnreadable", forPeople},
	{"token-link-to-itself", func(w *world) {
		path := filepath.Join(w.dir, "loop")
		if err := os.Symlink(path, path); err != nil {
			w.t.Fatal(err)
		}
		w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = path
	}, "TokenFileUnreadable", forPeople},
	{"token-link-to-nothing", func(w *world) {
		path := filepath.Join(w.dir, "token")
		if err := os.Symlink("/run/gone/token", path); err != nil {
			w.t.Fatal(err)
		}
		w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = path
	}, "TokenFileMissing", fixed},
	{"issuer-without-https", func(w *world) {
		w.write(unsigned(w, func(c map[string]any) { c["iss"] = "kubernetes/serviceaccount" }))
	}, "IssuerNotHTTPS", forPeople},

	{"no-region", func(w *world) {
		delete(w.env, "AWS_REGION")
		w.write(unsigned(w, func(c map[string]any) { c["iss"] = "https://oidc.example" }))
	}, "RegionUnknown", forPeople},
	{"region-typo", func(w *world) { w.env["AWS_REGION"] = "eu-wset-1" }, "EndpointNotFound", fixed},
	{"region-typo-of-another", func(w *world) { w.env["AWS_REGION"] = "eu-wst-2" }, "EndpointNotFound", forPeople}, // no world has the STS there
	{"region-of-nowhere", func(w *world) { w.env["AWS_REGION"] = "xx-nowhere-1" }, "EndpointNotFound", fixed},
	{"region-typo-and-fips", func(w *world) { w.env["AWS_REGION"], w.env["AWS_USE_FIPS_ENDPOINT"] = "us-esat-1", "1" }, "EndpointNotFound", forPeople},
	{"region-in-capitals", func(w *world) { w.mistake("AWS_REGION", "EU-WEST-1", names.CheckRegion("EU-WEST-1").Error()) }, "ConfigurationMistake", fixed},
	{"region-with-a-line-break", func(w *world) {
		w.mistake("AWS_REGION", "eu-west-1\n", names.CheckRegion("eu-west-1\n").Error())
	}, "ConfigurationMistake", fixed},
	{"no-dns", func(w *world) { delete(w.hosts, stsHost+":443") }, "EndpointNotFound", forPeople},
	{"no-dns-and-fips", func(w *world) { w.env["AWS_REGION"], w.env["AWS_USE_FIPS_ENDPOINT"] = "us-east-2", "1" }, "EndpointNotFound", forPeople},
	{"dns-broken", func(w *world) {
		w.options.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "server misbehaving", Name: stsHost, IsTemporary: true}
		}
	}, "EndpointUnreachable", forPeople},
	{"endpoint-not-found", func(w *world) { w.env["AWS_ENDPOINT_URL_STS"] = "https://sts.corp.example:8443" }, "EndpointNotFound", fixed},
	{"endpoint-silent", func(w *world) { w.env["AWS_ENDPOINT_URL_STS"] = "http://" + silentAddress(w.t).String() }, "EndpointUnreachable", fixed},
	{"endpoint-not-sts", func(w *world) { w.env["AWS_ENDPOINT_URL_STS"] = "http://" + w.plain(http.NotFoundHandler()).String() }, "NotAnSTSEndpoint", fixed},
	{"fips-elsewhere", func(w *world) { w.env["AWS_USE_FIPS_ENDPOINT"] = "1" }, "EndpointNotFound", fixed},
	{"refused", func(w *world) { w.hosts[stsHost+":443"] = silentAddress(w.t).String() }, "EndpointUnreachable", forPeople},
	{"dropped", func(w *world) { w.hosts[stsHost+":443"] = "hang" }, "EndpointTimeout", forPeople},
	{"tls-not-trusted", func(w *world) {
		w.options.Exchange.Roots = mustAuthority(w.t, time.Now().Add(time.Hour)).pool
	}, "EndpointNotTrusted", forPeople},
	{"ssh-on-443", func(w *world) {
		w.hosts[stsHost+":443"] = speaks(w.t, func(conn net.Conn) { io.WriteString(conn, "SSH-2.0-OpenSSH_9.6\r\n"); io.Copy(io.Discard, conn) })
	}, "NotAnSTSEndpoint", forPeople},
	{"tls-expired", func(w *world) {
		expired := mustAuthority(w.t, time.Now().Add(-24*time.Hour))
		w.options.Exchange.Roots = expired.pool
		w.hosts[stsHost+":443"] = listen(w.t, w.sts, expired.certificate)
	}, "EndpointNotTrusted", forPeople},
	{"tls-another-name", func(w *world) {
		w.env["AWS_ENDPOINT_URL_STS"] = "https://sts.corp.example"
		w.hosts["sts.corp.example:443"] = w.hosts[stsHost+":443"]
	}, "EndpointNotTrusted", fixed},
	{"answer-cut-short", func(w *world) {
		w.hosts[stsHost+":443"] = listen(w.t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet { // of the clock's check
				return
			}
			rw.Header().Set("Content-Length", "5000")
			io.WriteString(rw, "<AssumeRole")
		}), w.certificate)
	}, "EndpointUnreachable", forPeople},
	{"http-proxy-only", func(w *world) {
		w.env["HTTP_PROXY"] = "http://proxy.corp.example:3128"
		w.hosts[stsHost+":443"] = "hang"
	}, "EndpointTimeout", forPeople},
	{"no-tls", func(w *world) { w.hosts[stsHost+":443"] = w.plain(w.sts).String() }, "NotAnSTSEndpoint", forPeople},
	{"clock-behind", func(w *world) { w.skew(7*time.Minute + 20*time.Second) }, "ClockSkew", forPeople},
	{"clock-ahead-a-little", func(w *world) { w.skew(-2*time.Minute - 20*time.Second) }, "ClockSkew", forPeople},

	{"issuer-not-public", func(w *world) { w.issuerHandler = http.NotFoundHandler(); w.sts.Break(ststest.KeysUnreachable) }, "IDPCommunicationError", forPeople},
	{"issuer-not-public-2026", func(w *world) { w.issuerHandler = http.NotFoundHandler(); w.sts.Break(ststest.NotValidated) }, "IssuerUnreachable", forPeople},
	{"issuer-unreachable-from-here", func(w *world) { delete(w.hosts, "oidc.eks.eu-west-1.amazonaws.com:443") }, "IssuerUnreachable", forPeople},
	{"issuer-of-another-name", func(w *world) {
		w.document(map[string]any{"issuer": issuerURL + "/"})
		w.sts.Break(ststest.NotValidated)
	}, "IssuerMismatch", forPeople},
	{"issuer-in-the-cluster", func(w *world) {
		w.write(unsigned(w, func(c map[string]any) { c["iss"] = "https://kubernetes.default.svc.cluster.local" }))
	}, "IssuerNotPublic", forPeople},
	{"issuer-with-a-port", func(w *world) {
		w.write(unsigned(w, func(c map[string]any) { c["iss"] = "https://oidc.example.com:6443" }))
	}, "IssuerMalformed", forPeople},
	{"issuer-keys-in-the-cluster", func(w *world) {
		w.document(map[string]any{"issuer": issuerURL, "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks", "response_types_supported": []string{"id_token"}, "id_token_signing_alg_values_supported": []string{"RS256"}})
		w.sts.Break(ststest.NotValidated)
	}, "IssuerNotPublic", forPeople},
	{"issuer-is-a-page", func(w *world) {
		w.issuerHandler = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "<!doctype html>") })
		w.sts.Break(ststest.NotValidated)
	}, "IssuerUnreachable", forPeople},
	{"issuer-needs-an-account", func(w *world) {
		w.issuerHandler = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(http.StatusForbidden)
			io.WriteString(rw, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}`)
		})
		w.sts.Break(ststest.KeysUnreachable)
	}, "IssuerUnreachable", forPeople},
	{"issuer-incomplete", func(w *world) {
		w.document(map[string]any{"issuer": issuerURL, "jwks_uri": issuerURL + "/openid/v1/jwks"})
		w.sts.Break(ststest.KeysUnreachable)
	}, "IssuerIncomplete", forPeople},
	{"cluster-rebuilt", func(w *world) {
		issuer, err := ststest.NewIssuer(issuerURL)
		if err != nil {
			w.t.Fatal(err)
		}
		token := w.newToken()
		w.replaceIssuer(issuer)
		w.write(token)
	}, "KeyUnknown", fixed},
	{"signature", func(w *world) { w.write(unsigned(w, func(map[string]any) {})) }, "SignatureInvalid", fixed},

	{"no-provider", func(w *world) { w.sts.Change(func(o *ststest.Options) { o.Providers = []ststest.Provider{} }) }, "ProviderMissing", fixed},
	{"no-provider-old", func(w *world) {
		w.sts.Change(func(o *ststest.Options) { o.Providers, o.OldWording = []ststest.Provider{}, true })
	}, "ProviderMissing", fixed},
	{"stale-cluster-id", func(w *world) {
		w.sts.Change(func(o *ststest.Options) { o.Providers[0].Issuer = "https://oidc.eks.eu-west-1.amazonaws.com/id/OLD" })
	}, "ProviderMissing", fixed},
	{"client-id-missing", func(w *world) {
		w.sts.Change(func(o *ststest.Options) { o.Providers[0].ClientIDs = []string{"other"} })
	}, "AudienceNotRegistered", fixed},
	{"thumbprint-not-known", func(w *world) {
		delete(w.hosts, "oidc.eks.eu-west-1.amazonaws.com:443")
		w.sts.Break(ststest.WrongThumbprint)
	}, "ThumbprintMismatch", forPeople},
	{"thumbprint", func(w *world) { w.sts.Break(ststest.WrongThumbprint) }, "ThumbprintMismatch", fixed},
	{"not-a-jwt", func(w *world) { w.sts.Break(ststest.NotAJWT) }, "TokenFileMalformed", forPeople},

	{"trust-action", func(w *world) { w.trust("sts:AssumeRoleWithWebIdentity", "sts:AssumeRole") }, "AccessDenied", fixed},
	{"trust-swapped-host", func(w *world) { w.trust("oidc-provider/oidc.eks.eu-west-1", "oidc-provider/oidc.eu-west-1.eks") }, "AccessDenied", fixed},
	{"trust-star", func(w *world) { w.trust("shop:cart", "shop:*") }, "AccessDenied", fixed},
	{"trust-key", func(w *world) { w.trust("/id/EXAMPLED539D4633E53DE1B71EXAMPLE:sub", ":sub") }, "AccessDenied", fixed},
	{"trust-case", func(w *world) { w.trust("shop:cart", "shop:Cart") }, "AccessDenied", fixed},
	{"trust-another", func(w *world) { w.trust("shop:cart", "shop:web") }, "AccessDenied", fixed},
	{"trust-another-account", func(w *world) { w.trust(account, "444455556666") }, "AccessDenied", fixed},
	{"another-role", func(w *world) { w.env["AWS_ROLE_ARN"] = roleARN + "2" }, "AccessDenied", forPeople},
	{"denied-scp", func(w *world) {
		w.sts.Break(ststest.DeniedBecause("with an explicit deny in a service control policy: arn:aws:organizations::444455556666:policy/o-abcdefghij/service_control_policy/p-examplepolicy"))
	}, "DeniedByOrganization", forPeople},
	{"denied-rcp", func(w *world) {
		w.sts.Break(ststest.DeniedBecause("with an explicit deny in a resource control policy"))
	}, "DeniedByOrganization", forPeople},
	{"denied-endpoint", func(w *world) {
		w.sts.Break(ststest.DeniedBecause("because no VPC endpoint policy allows the sts:AssumeRoleWithWebIdentity action"))
	}, "DeniedByEndpointPolicy", forPeople},
	{"denied-boundary", func(w *world) {
		w.sts.Break(ststest.DeniedBecause("because no permissions boundary allows the sts:AssumeRoleWithWebIdentity action"))
	}, "DeniedByPolicy", forPeople},
	{"denied-tags", func(w *world) { w.sts.Break(ststest.ActionDenied("sts:TagSession")) }, "TagSessionDenied", forPeople},
	{"denied-scp-and-given-policy", func(w *world) {
		w.sts.Break(ststest.DeniedBecause("with an explicit deny in a service control policy"))
		w.give(w.trust("shop:cart", "shop:web"))
	}, "DeniedByOrganization", forPeople},
	{"denied-trust-policy", func(w *world) {
		w.sts.Break(ststest.DeniedBecause("because no resource-based policy allows the sts:AssumeRoleWithWebIdentity action"))
	}, "AccessDenied", forPeople},
	{"idp-communication", func(w *world) { w.sts.Break(ststest.IDPCommunicationError) }, "IDPCommunicationError", forPeople},
	{"idp-rejected", func(w *world) { w.sts.Break(ststest.IDPRejectedClaim) }, "IDPRejectedClaim", forPeople},
	{"token-too-old", func(w *world) { w.sts.Break(ststest.TokenTooOld(123 * time.Hour)) }, "ExpiredTokenException", forPeople},
	{"region-off", func(w *world) {
		w.sts.Change(func(o *ststest.Options) { o.DisabledRegions = []string{region} })
		w.hosts["sts.us-east-1.amazonaws.com:443"] = listen(w.t, ststest.New(ststest.Options{Issuer: w.issuer}), w.certificate)
	}, "RegionDisabledException", fixed},
	{"throttled", func(w *world) { w.sts.Break(ststest.Throttling) }, "Throttling", forPeople},
	{"request-arn", func(w *world) { w.sts.Break(ststest.InvalidARN) }, "ValidationError", forPeople},
	{"duration-too-long", func(w *world) { w.options.Exchange.Duration = 12 * time.Hour }, "DurationTooLong", fixed},
	{"session-name", func(w *world) {
		w.sts.Break(ststest.Fault{Code: "ValidationError", Message: `1 validation error detected: Value 'a/b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`})
	}, "ValidationError", forPeople},
	{"policy-too-large", func(w *world) { w.options.Exchange.Policy = `"` + strings.Repeat("a", 2047) + `"` }, "PackedPolicyTooLarge", forPeople},
	{"policy-malformed", func(w *world) { w.options.Exchange.Policy = "{" }, "MalformedPolicyDocument", forPeople},
	{"another-service", func(w *world) { w.sts.Break(ststest.NoSuchOperation("AssumeRoleWithWebIdentity", "2011-06-15")) }, "NotAnSTSEndpoint", forPeople},
	{"internal-failure", func(w *world) { w.sts.Break(ststest.InternalFailure) }, "ServiceUnavailable", forPeople},
	{"html-503", func(w *world) { w.sts.Break(ststest.HTMLPage(503)) }, "ServiceUnavailable", forPeople},
	{"html-403", func(w *world) { w.sts.Break(ststest.HTMLPage(403)) }, "NotAnSTSEndpoint", forPeople},
	{"html-407", func(w *world) { w.sts.Break(ststest.HTMLPage(407)) }, "ProxyRefused", forPeople},
	{"html-429", func(w *world) { w.sts.Break(ststest.HTMLPage(429)) }, "Throttling", forPeople},
	{"redirected", func(w *world) { w.sts.Break(ststest.HTMLPage(302)) }, "NotAnSTSEndpoint", forPeople},
	{"client-token-id", func(w *world) {
		w.sts.Break(ststest.Fault{Status: 403, Code: "InvalidClientTokenId", Message: "The security token included in the request is invalid"})
	}, "InvalidClientTokenId", forPeople},
	{"no-credentials", func(w *world) { w.sts.Break(ststest.NoCredentials) }, "NotAnSTSEndpoint", forPeople},

	{"port-taken", func(w *world) { w.options.Listen = w.plain(http.NotFoundHandler()) }, "PortTaken", fixed},
	{"host-network", func(w *world) { w.options.OnHostNetwork = true }, "HostNetwork", fixed},

	{"given-policy-right", func(w *world) { w.give(string(identity().Policy())) }, "", fixed},
	{"given-policy-not-json", func(w *world) { w.give("{\n  \"Version\": \"2012-10-17\",\n}") }, "PolicyMalformed", fixed},
	{"given-policy-no-aud", func(w *world) {
		w.give(w.trust("\n          \""+identity().Provider()+":aud\": \"sts.amazonaws.com\",", ""))
	}, "PolicyNoAudience", forPeople},
	{"given-policy-several", func(w *world) { w.give(w.trust("shop:cart", "shop:*", "oidc.eks.eu-west-1", "oidc.eu-west-1.eks")) }, "AccessDenied", fixed},
	{"given-policy-another-cluster", func(w *world) {
		w.give(w.trust("EXAMPLED539D4633E53DE1B71EXAMPLE", "0123456789ABCDEF0123456789ABCDEF"))
	}, "AccessDenied", fixed},
	{"given-policy-another-subject", func(w *world) { w.give(w.trust("shop:cart", "shop:crat")) }, "AccessDenied", fixed},
	{"given-policy-lock", func(w *world) {
		w.give(w.trust("\"StringEquals\": {", "\"StringEquals\": {\n          \"aws:SourceVpc\": \"vpc-0abc\","))
	}, "AccessDenied", forPeople},
	{"given-policy-lock-and-case", func(w *world) {
		w.give(w.trust("shop:cart", "shop:Cart", "\"StringEquals\": {", "\"StringEquals\": {\n          \"aws:SourceVpc\": \"vpc-0abc\","))
	}, "AccessDenied", forPeople},
	{"given-policy-placeholder", func(w *world) { w.give(w.trust("iam::111122223333", "iam::${ACCOUNT_ID}")) }, "AccessDenied", forPeople},
	{"given-policy-deny", func(w *world) {
		w.give(w.trust(`"Statement": [`, `"Statement": [{"Sid": "Old", "Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRoleWithWebIdentity"},`))
	}, "AccessDenied", forPeople},
	{"given-policy-is-another-roles", func(w *world) { w.env["AWS_ROLE_ARN"] = roleARN + "2"; w.give(string(identity().Policy())) }, "AccessDenied", forPeople},
}

// The transport takes its proxy from the environment as it was at the start, so that no world has one.
func TestAProxyThatIsNotKnown(t *testing.T) {
	unknown := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "proxy.example", IsNotFound: true}}
	e := &examination{Options: Options{Getenv: func(string) string { return "" }, Exchange: webidentity.Options{
		Region: region, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, unknown },
	}}}
	if e.connect(t.Context(), &url.URL{Scheme: "http", Host: "proxy.example:3128"}, "the proxy", cache.ProxyNotFound) {
		t.Error("connected")
	}
	f := e.findings[0]
	if f.Key != "ProxyNotFound" || f.Finding != "the proxy: no such host" || f.Advice != cache.ProxyNotFound.Advice() ||
		len(f.Fixes) != 2 || f.Fixes[0].Text != "export HTTPS_PROXY=http://PROXY:PORT" || f.Fixes[1].Text != "export NO_PROXY=,"+stsHost && f.Fixes[1].Text != "export NO_PROXY="+stsHost {
		t.Errorf("found %+v", f)
	}
}

// No line of a report is longer than a screen or two, whatever the environment contains.
func TestLongValuesAreCutInReports(t *testing.T) {
	long := strings.Repeat("long-", 20000)
	w := newWorld(t)
	w.env["AWS_ROLE_ARN"] = long[:2000]
	w.env["AWS_PROFILE"], w.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = long, "http://"+long
	w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "/" + long
	w.env["NO_PROXY"] = long
	w.options.Mistakes = append(w.options.Mistakes, Mistake{Variable: "IRSA_SIDECAR_DURATION", Text: "\"" + long + "\" is not a duration"})
	w.options.Policy, w.options.PolicyName = []byte(`{"Statement": "`+long+`"}`), long
	r := w.examine()
	if len(r.Findings) < 5 {
		t.Errorf("only %d findings", len(r.Findings))
	}
	ends := 0
	for _, f := range r.Findings {
		if n := len([]rune(f.Finding)); n > maxFinding {
			t.Errorf("%d characters: %.200s", n, f.Finding)
		}
		if strings.HasSuffix(f.Finding, "is not a duration") || strings.HasSuffix(f.Finding, "role/app") {
			ends++
		}
		for _, fix := range f.Fixes {
			if len(fix.Text) > 2*maxValue {
				t.Errorf("%d bytes to be pasted: %.200s", len(fix.Text), fix.Text)
			}
		}
	}
	if ends != 2 {
		t.Errorf("%d of 2 findings say what is wrong with the value", ends)
	}
}

func TestEachFaultHasItsReportAndItsFix(t *testing.T) {
	t.Parallel()
	for _, row := range faults {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			row.fault(w)
			r := w.examine()
			golden(t, w, row.name, r)
			w.mustAccept(r)
			if row.key != "" && !found(r, row.key) {
				t.Errorf("nothing is %s", row.key)
			}
			if row.ends == inTheApp {
				w.mustFixTheApp(r, row.key)
				return
			}
			if got := w.well(r, row.key) || w.fix(r, row.key); got != (row.ends == fixed) {
				t.Errorf("after the fixes the exchange works and the finding is gone: %v", got)
			}
		})
	}
}

// mustAccept checks that STS's yes is a yes: no check of the exchange has failed then, and no policy is to be changed.
func (w *world) mustAccept(r *Report) {
	w.t.Helper()
	if !w.works(r) {
		return
	}
	for _, f := range r.Findings {
		if f.Status == Fail && f.Check != "environment" && f.Check != "sidecar" && f.Key != "PolicyMalformed" {
			w.t.Errorf("the exchange works, and %s has failed: %s", f.Check, f.Finding)
		}
		for _, fix := range f.Fixes {
			if fix.Kind == changes || strings.Contains(fix.Text, "update-assume-role-policy") {
				w.t.Errorf("the exchange works, and a fix of %s changes the policy: %s", f.Key, fix.What)
			}
		}
	}
}

// mustFixTheApp applies the fixes of a key. After that, the environment is that of an app, which asks the sidecar.
func (w *world) mustFixTheApp(r *Report, key string) {
	w.t.Helper()
	for _, f := range r.Findings {
		if f.Key == key {
			for _, fix := range f.Fixes {
				w.apply(fix)
			}
		}
	}
	if !IsApp(w.options.Getenv) {
		w.t.Error("after the fixes an SDK does not ask the sidecar")
	}
}

func TestAHealthyPodIsHealthy(t *testing.T) {
	w := newWorld(t)
	r := w.examine()
	golden(t, w, "healthy", r)
	if r.Cause != nil || r.Result != OK {
		t.Errorf("%+v, %v", r.Cause, r.Result)
	}
	if string(r.TrustPolicy) != string(identity().Policy()) {
		t.Errorf("the trust policy is %s", r.TrustPolicy)
	}
	if calls := w.sts.Calls(); calls != 2 { // one for the clock, without a token, and one exchange
		t.Errorf("STS was asked %d times", calls)
	}
}

func TestAFindingDoesNotSteerATerminal(t *testing.T) {
	const bad, want = "AWS_PROFILE=d\x1b[2Jev:\r\u009b1A\u202e \xff", "AWS_PROFILE=d [2Jev: 1A"
	f := Finding{Finding: bad, Summary: bad, Advice: bad}
	f.scrub()
	if f.Finding != want || f.Summary != want || f.Advice != want {
		t.Errorf("%q, %q, %q, want %q", f.Finding, f.Summary, f.Advice, want)
	}
	// A host in a URL may have any letter by its number.
	env := map[string]string{"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}
	e := &examination{Options: Options{Getenv: func(name string) string { return env[name] }}}
	e.Exchange.Endpoint = "https://sts%c2%9b2J.example"
	_, fixes := e.proxyTrap(&cache.FetchError{Reason: cache.EndpointTimeout})
	if want := "if STS is reached only through the proxy, remove the entry that covers STS from NO_PROXY"; len(fixes) != 1 || fixes[0].What != want {
		t.Errorf("%+v, want %q", fixes, want)
	}
}

// What listens on the sidecar's port may be another program, and may quote the request.
func TestAnEchoedAuthorizationTokenIsMasked(t *testing.T) {
	w := newWorld(t)
	w.options.Authorization = "correct-horse-battery"
	w.options.Listen = w.plain(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Irsa-Sidecar", "credentials")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"code": "got %s"}`, r.Header.Get("Authorization"))
	}))
	text := fmt.Sprintf("%+v", w.examine().Findings)
	if strings.Contains(text, w.options.Authorization) || !strings.Contains(text, "got [token]") {
		t.Errorf("found %s", text)
	}
}

// A role's path may contain any printable character, and an unverified token anything.
func TestCommandsQuoteWhatTheyAreMadeOf(t *testing.T) {
	unset := func(string) string { return "" }
	e := &examination{
		Options: Options{Getenv: unset, Exchange: webidentity.Options{RoleARN: "arn:aws:iam::111122223333:role/$(id)/app"}, Listen: netip.MustParseAddrPort("[::1]:9911")},
		claims:  webidentity.Claims{Namespace: "a;b", ServiceAccount: "c\nd", Pod: "--all", Audience: []string{"`e`"}},
	}
	for _, row := range []struct {
		fix  Fix
		want string
	}{
		{e.fixAnnotation()[0], "kubectl annotate serviceaccount -n NAMESPACE SERVICE_ACCOUNT eks.amazonaws.com/role-arn='arn:aws:iam::111122223333:role/$(id)/app' --overwrite\n" +
			"kubectl rollout restart -n NAMESPACE deployment/DEPLOYMENT"},
		{e.fixExpired()[0], "kubectl delete pod -n NAMESPACE POD"},
		{e.fixProvider()[1], "aws iam create-open-id-connect-provider --url ISSUER --client-id-list '`e`'"},
		{e.fixURI(), "export AWS_CONTAINER_CREDENTIALS_FULL_URI='http://[::1]:9911/v1/credentials'"},
		{e.fixPort(), "export IRSA_SIDECAR_LISTEN='[::1]:9921'"},
		{(&examination{Options: Options{Getenv: unset, Listen: netip.MustParseAddrPort("127.0.0.1:9921")}}).fixPort(), "export IRSA_SIDECAR_LISTEN=127.0.0.1:9931"},
	} {
		if row.fix.Text != row.want {
			t.Errorf("%s, want %s", row.fix.Text, row.want)
		}
	}
	e.claims = webidentity.Claims{Namespace: "shop", Pod: "api-0.shop"}
	if got, want := e.fixExpired()[0].Text, "kubectl delete pod -n shop api-0.shop"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// Values that would be options, steer a terminal, look like secrets or are too long to paste become placeholders.
	for _, bad := range []string{
		"--profile", "a\nb", "\x1b[2J", "a\x7f", "\u009b2J", "\u202e", "\xff",
		"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY99", "wJalrXUtnFEMI/K7MDENGbPxRfiCYEXAMPLEKEY9",
		strings.Repeat("long", 1025),
	} {
		e := &examination{
			Options: Options{Exchange: webidentity.Options{RoleARN: bad, TokenFile: bad}, Getenv: func(string) string { return bad }},
			claims:  webidentity.Claims{Issuer: bad, Audience: []string{bad}},
		}
		want := map[string]string{
			e.fixProvider()[1].Text:      "aws iam create-open-id-connect-provider --url ISSUER --client-id-list AUDIENCE",
			e.fixClientID()[0].Text:      "aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn PROVIDER_ARN --client-id AUDIENCE",
			e.fixDuration().Text:         "aws iam update-role --role-name ROLE --max-session-duration 0",
			e.setTokenPath("", bad).Text: "kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c irsa-sidecar AWS_WEB_IDENTITY_TOKEN_FILE=/PATH/TO/TOKEN",
			fixIssuer(bad).Text:          "curl -sS --max-time 5 URL",
		}
		if bad[0] != '-' { // with something before it, it is no option
			want[e.fixAnnotation()[0].Text] = "kubectl annotate serviceaccount -n NAMESPACE SERVICE_ACCOUNT eks.amazonaws.com/role-arn=arn:aws:iam::ACCOUNT:role/ROLE --overwrite\n" +
				"kubectl rollout restart -n NAMESPACE deployment/DEPLOYMENT"
			want[e.fixURI().Text] = "kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c CONTAINER AWS_CONTAINER_CREDENTIALS_FULL_URI=http://ADDRESS:PORT/v1/credentials"
			want[e.fixReason(&cache.FetchError{Reason: cache.ProxyRefused})[1].Text] = "kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c irsa-sidecar NO_PROXY=HOSTS,STS"
		}
		for got, want := range want {
			if got != want {
				t.Errorf("of %q: %s, want %s", bad, got, want)
			}
		}
	}
	// A host in a URL may have any letter by its number.
	e.Exchange.Endpoint, e.Getenv = "https://sts%c2%9b2J.example", unset
	if got, want := e.fixReason(&cache.FetchError{Reason: cache.NotAnSTSEndpoint})[0].Text, "curl -sSI https://STS"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	e.Exchange.RoleARN = "app|id"
	if got, want := e.fixDuration().Text, "aws iam update-role --role-name 'app|id' --max-session-duration 0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// In a Pod the environment comes from the Pod's spec; elsewhere there is a shell.
func TestVariablesAreChangedWhereTheyAreSet(t *testing.T) {
	for _, row := range []struct {
		host        string
		assignments []string
		want        string
	}{
		{"10.100.0.1", []string{"A=1", "B-", "C='x y'"}, "kubectl set env -n shop deployment/DEPLOYMENT -c irsa-sidecar A=1 B- C='x y'"},
		{"", []string{"A=1", "B-", "C='x y'", "D-"}, "export A=1 C='x y'\nunset B D"},
		{"", []string{"A="}, "export A="},
		{"", []string{"A=x-"}, "export A=x-"},
		{"", []string{"A-"}, "unset A"},
	} {
		e := &examination{
			Options: Options{Root: t.TempDir(), Getenv: func(string) string { return row.host }},
			claims:  webidentity.Claims{Namespace: "shop"},
		}
		if got := e.setEnv("", ourContainer, row.assignments...).Text; got != row.want {
			t.Errorf("%q in %q: %s, want %s", row.assignments, row.host, got, row.want)
		}
	}
	w := newWorld(t)
	delete(w.env, "KUBERNETES_SERVICE_HOST")
	w.place("/var/run/secrets/kubernetes.io/serviceaccount/namespace", "shop\n")
	if e := (&examination{Options: w.options}); !e.inPod() {
		t.Error("a service account's volume is not enough to be in a Pod")
	}
}

// In Terraform's strings a token could have another's variables and files evaluated.
func TestTerraformIsGivenTextsAndNoExpressions(t *testing.T) {
	for text, want := range map[string]string{
		"sts.amazonaws.com":      `"sts.amazonaws.com"`,
		`say "no" \ twice`:       `"say \"no\" \\ twice"`,
		`${file("/etc/shadow")}`: `"$${file(\"/etc/shadow\")}"`,
		"%{ if true }":           `"%%{ if true }"`,
		"$${a} %%{b}":            `"$$${a} %%%{b}"`, // which Terraform reads as it was
		"$ { 100% $":             `"$ { 100% $"`,
		"a\x1b[2J\n\tb\x7f":      `"a\u001b[2J\u000a\u0009b\u007f"`,
		"\u009b\u202e\U000e0001": `"\u009b\u202e\U000e0001"`,
		"é":                      `"é"`,
	} {
		if got := terraformString(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
		if back, rest, ok := readHCL(terraformString(text)); !ok || back != text || rest != "" {
			t.Errorf("%q is read back as %q, and %q is left", text, back, rest)
		}
	}
}

// TestEveryKeyHasAMeaningAndAReport keeps the list of keys, the table in docs and the golden reports
// together.
func TestEveryKeyHasAMeaningAndAReport(t *testing.T) {
	reported := make(map[string]bool)
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			if !strings.HasPrefix(line, "warn  ") && !strings.HasPrefix(line, "FAIL  ") {
				continue
			}
			for word := range strings.FieldsSeq(line) {
				if key, ok := strings.CutSuffix(word, ":"); ok {
					reported[key] = true
				}
			}
		}
	}
	listed := make(map[string]bool)
	for _, entry := range Entries() {
		if listed[entry.Key] || entry.Meaning == "" || cache.Reason(entry.Key).Advice() != "" {
			t.Errorf("%s is there twice, or has no meaning, or is a Reason", entry.Key)
		}
		listed[entry.Key] = true
		if kind := trustpolicy.Kind(entry.Key); !reported[entry.Key] && !strings.HasPrefix(string(kind), "Policy") {
			t.Errorf("no report has %s", entry.Key)
		}
	}
	unreported := []cache.Reason{
		cache.CredentialsUninitialized, cache.UnknownError, cache.UnusableCredentials, // the sidecar's alone, or nobody's
		cache.InvalidParameterValue, // MinIO's
		cache.ProxyNotFound,         // no world has a proxy
	}
	for _, reason := range cache.Reasons() {
		if !reported[string(reason)] && !slices.Contains(unreported, reason) && reason != cache.InvalidIdentityToken { // which the doctor takes apart
			t.Errorf("no report has the reason %s", reason)
		}
	}
}

func (w *world) mistake(variable, value, text string) {
	w.env[variable] = value
	w.options.Mistakes = append(w.options.Mistakes, Mistake{Variable: variable, Text: text})
}

// wrongRole annotates the service account with what is not a role's ARN.
func (w *world) wrongRole(arn string) {
	w.annotation = arn
	w.mistake("AWS_ROLE_ARN", arn, names.CheckRoleARN(arn).Error())
}

// misspell sets a variable under another name.
func (w *world) misspell(variable, name string) {
	w.env[name] = w.env[variable]
	delete(w.env, variable)
	w.options.Mistakes = append(w.options.Mistakes, Mistake{Variable: variable, Text: "is not set, but " + name + " is; did you mean " + variable + "?", Misspelt: name})
}

// trust changes the role's trust policy, and returns it.
func (w *world) trust(pairs ...string) string {
	w.t.Helper()
	policy := string(identity().Policy())
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(policy, pair[0]) {
			w.t.Fatalf("the policy has no %s", pair[0])
		}
		policy = strings.ReplaceAll(policy, pair[0], pair[1])
	}
	w.sts.Change(func(o *ststest.Options) { o.TrustPolicy = policy })
	w.current = policy
	return policy
}

// allow makes the trust policy one for another audience too.
func (w *world) allow(audience string) {
	w.trust(`"sts.amazonaws.com"`, `["sts.amazonaws.com", "`+audience+`"]`)
}

func (w *world) give(policy string) {
	w.options.Policy, w.options.PolicyName = []byte(policy), "trust.json"
}

// copyToken has the environment name a copy of the token.
func (w *world) copyToken() (path string) {
	w.t.Helper()
	raw, err := os.ReadFile(w.file.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	path = filepath.Join(w.dir, "token")
	if err := os.WriteFile(path, raw, 0o640); err != nil {
		w.t.Fatal(err)
	}
	w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = path
	return path
}

// place puts one of Kubernetes' or the kernel's files into the Pod.
func (w *world) place(path, content string) {
	w.t.Helper()
	path = filepath.Join(w.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// unsigned makes a token with other claims under a signature that is not theirs.
func unsigned(w *world, change func(map[string]any)) string {
	w.t.Helper()
	parts := strings.Split(w.newToken(), ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		w.t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"exp", "iat", "nbf"} {
		claims[name] = int64(claims[name].(float64))
	}
	claims["jti"] = "changed"
	change(claims)
	if raw, err = json.Marshal(claims); err != nil {
		w.t.Fatal(err)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(raw)
	return strings.Join(parts, ".")
}

// plain listens in the clear.
func (w *world) plain(h http.Handler) netip.AddrPort {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	w.t.Cleanup(func() { s.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (w *world) skew(by time.Duration) {
	w.sts.Change(func(o *ststest.Options) { o.Now = func() time.Time { return time.Now().Add(by) } })
}

func (w *world) document(fields map[string]any) {
	w.issuerHandler = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { json.NewEncoder(rw).Encode(fields) })
}

// replaceIssuer rebuilds the cluster, under its old name.
func (w *world) replaceIssuer(issuer *ststest.Issuer) {
	w.issuer = issuer
	w.issuerHandler = http.StripPrefix("/id/EXAMPLED539D4633E53DE1B71EXAMPLE", issuer)
	w.sts.Change(func(o *ststest.Options) { o.Issuer = issuer })
}

// A DNS that never answers costs seconds, and the rest is still examined.
func TestADNSThatHangsEndsInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.Lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.options.Exchange.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r := w.examine() // which fails after 15 seconds
	golden(t, w, "dns-hangs", r)
	if r.Cause == nil || r.Cause.Check != "dns" || r.Cause.Key != "EndpointUnreachable" {
		t.Errorf("the cause is %+v", r.Cause)
	}
}

func TestOnlyTheStatusIsColored(t *testing.T) {
	r := &Report{Version: "v1", Findings: []Finding{
		{Check: "a", Status: OK, Finding: "fine"}, {Check: "bc", Status: Fail, Key: "K", Finding: "broken", Fixes: []Fix{{What: "do it", Kind: shell, Text: "one\ntwo"}, {What: "or not"}}},
	}}
	for color, want := range map[bool]string{
		false: "irsa-sidecar doctor v1\n\nok    a   fine\nFAIL  bc  K: broken\n      fix: do it:\n        one\n        two\n      fix: or not\n\n1 ok, 0 warn, 1 FAIL\n",
		true: "irsa-sidecar doctor v1\n\n\x1b[32mok  \x1b[0m  a   fine\n\x1b[1;31mFAIL\x1b[0m  bc  K: broken\n" +
			"      fix: do it:\n        one\n        two\n      fix: or not\n\n1 ok, 0 warn, 1 FAIL\n",
	} {
		var b strings.Builder
		if err := r.writeText(&b, color); err != nil || b.String() != want {
			t.Errorf("color %v: %v\n%q, want\n%q", color, err, b.String(), want)
		}
	}
}
