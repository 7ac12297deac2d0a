package doctor

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// checkEnvironment checks the variables that the EKS webhook should have set, and others that SDKs use.
// https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
func (e *examination) checkEnvironment() {
	role, file := e.Exchange.RoleARN != "", e.Exchange.TokenFile != ""
	switch {
	case e.Section != "" && !role: // which is a mistake in the file
	case e.Section != "" && file:
		e.ok("environment", "%s has the role, and there is a token file", e.Section)
	case e.Section != "":
		e.unset(HalfAnnotated, "AWS_WEB_IDENTITY_TOKEN_FILE is not set, and "+e.Section+" has no web_identity_token_file", "AWS_WEB_IDENTITY_TOKEN_FILE")
	case !role && !file && !e.inPod() && !slices.ContainsFunc(e.Mistakes, func(m Mistake) bool { return m.Misspelt != "" && !e.aboutEndpoint(m) }):
		f := failure("environment", NotAPod, "this is no Pod, and neither AWS_ROLE_ARN nor AWS_WEB_IDENTITY_TOKEN_FILE is set", e.fixNotAPod()...)
		f.Summary = "this is no Pod: run kubectl irsa doctor NAMESPACE/POD"
		e.add(f)
	case !role && !file:
		e.unset(NotAnnotated, "neither AWS_ROLE_ARN nor AWS_WEB_IDENTITY_TOKEN_FILE is set", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")
	case e.RoleVariable != "" && !role: // which is a mistake in its file
	case !role:
		e.unset(HalfAnnotated, "AWS_WEB_IDENTITY_TOKEN_FILE is set but AWS_ROLE_ARN is not", "AWS_ROLE_ARN")
	case !file:
		e.unset(HalfAnnotated, e.roleVariable()+" is set but AWS_WEB_IDENTITY_TOKEN_FILE is not", "AWS_WEB_IDENTITY_TOKEN_FILE")
	default:
		e.ok("environment", "%s and AWS_WEB_IDENTITY_TOKEN_FILE are set", e.roleVariable())
	}
	for _, m := range e.Mistakes {
		switch {
		case isConfigFile(m.Variable), m.Variable == "AWS_ROLE_ARN", m.Variable == "AWS_WEB_IDENTITY_TOKEN_FILE" && !file: // another check says more
		default:
			e.add(failure("environment", ConfigurationMistake, m.Variable+" "+m.Text, e.fixMistake(m)...))
		}
	}
	e.checkKeys()
	e.checkProfile()
	e.checkApp()
}

// roleVariable is the variable that names the role.
func (e *examination) roleVariable() string { return cmp.Or(e.RoleVariable, "AWS_ROLE_ARN") }

// setting is the name of a setting of the first role where it is set.
func (e *examination) setting(key, variable string) string {
	return (&Hop{Section: e.Section}).setting(key, variable)
}

// unset records that variables are not set, first of all because their names are misspelt.
func (e *examination) unset(key Key, text string, variables ...string) {
	var fixes []Fix
	for _, m := range e.Mistakes {
		if m.Misspelt != "" && slices.Contains(variables, m.Variable) {
			text += fmt.Sprintf("; %s is (did you mean %s?)", m.Misspelt, m.Variable)
			fixes = append(fixes, e.fixName(m))
		}
	}
	if len(fixes) < len(variables) {
		fixes = append(fixes, e.fixAnnotation()...)
	}
	e.add(failure("environment", key, text, fixes...))
}

// accessKeyID is the form of AWS's access key IDs: four letters for the kind, and at least twelve characters.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
func accessKeyID() *regexp.Regexp { return regexp.MustCompile(`^(AKIA|ASIA)[A-Z0-9]{12,124}$`) }

// checkKeys looks for access keys, which every SDK prefers to the sidecar.
func (e *examination) checkKeys() {
	has := func(name string) bool { return e.Getenv(name) != "" }
	if broken := brokenKeys(has, e.Getenv); broken != "" {
		e.add(failure("environment", KeyPairBroken, broken, e.fixStaticKeys()...))
	} else if has("AWS_ACCESS_KEY_ID") {
		e.add(warning("environment", StaticKeys, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set: SDKs use them and look no further", e.fixStaticKeys()...))
	}
}

// brokenKeys says what is wrong with the access keys in an environment, or "" if there are none. No value is shown: any of
// them may be a secret in the wrong variable. A variable may be set to a value that is not known, and is then empty.
func brokenKeys(has func(string) bool, value func(string) string) string {
	id := value("AWS_ACCESS_KEY_ID")
	switch hasID, hasSecret := has("AWS_ACCESS_KEY_ID"), has("AWS_SECRET_ACCESS_KEY"); {
	case id != "" && !accessKeyID().MatchString(id):
		return fmt.Sprintf("AWS_ACCESS_KEY_ID has %d characters and is not an access key ID, which begins with AKIA or ASIA; is it the secret?", len(id))
	case !hasID && hasSecret:
		return "AWS_SECRET_ACCESS_KEY is set but AWS_ACCESS_KEY_ID is not"
	case hasID && !hasSecret:
		return "AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not"
	case strings.HasPrefix(id, "ASIA") && !has("AWS_SESSION_TOKEN"):
		return "AWS_ACCESS_KEY_ID belongs to a session, but AWS_SESSION_TOKEN is not set"
	}
	return ""
}

func (e *examination) checkProfile() {
	for _, name := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"} {
		if profile := e.Getenv(name); profile != "" {
			e.add(warning("environment", ProfileSet, fmt.Sprintf("%s=%s: SDKs try that profile first", name, profile),
				e.setEnv("let SDKs find the sidecar", ourContainer, name+"-")))
		}
	}
}

// podIdentity has the addresses of the EKS Pod Identity agent.
// https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
var podIdentity = []string{"169.254.170.23", "fd00:ec2::23"}

// checkApp says where an SDK gets its credentials if the environment is an app's too. [IsApp] tells one that is only an
// app's.
func (e *examination) checkApp() {
	raw := e.Getenv(sources.FullURI)
	uri, err := url.Parse(raw)
	switch {
	case raw == "":
	case err == nil && slices.Contains(podIdentity, uri.Hostname()):
		e.add(warning("app", PodIdentity,
			"AWS_CONTAINER_CREDENTIALS_FULL_URI points to the EKS Pod Identity agent: this service account has a Pod Identity association, and SDKs get credentials from there",
			e.fixPodIdentity()))
	default:
		e.add(warning("app", Shadowed,
			"AWS_CONTAINER_CREDENTIALS_FULL_URI is set, and so are AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE: an SDK with this environment never asks the sidecar; examine it with doctor --app",
			e.setEnv("set it to empty in the app's container; the webhook keeps a variable that the spec has", appContainer, "AWS_WEB_IDENTITY_TOKEN_FILE=")))
	}
}

func (e *examination) checkRole() {
	arn := e.Exchange.RoleARN
	if arn == "" {
		e.skip("role")
		return
	}
	if err := names.CheckRoleARN(arn); err != nil {
		e.add(failure("role", RoleARNMalformed, e.setting("role_arn", e.roleVariable())+" "+err.Error(), e.fixRoleARN()...))
		return
	}
	fields := strings.SplitN(arn, ":", 6)
	account := fields[4]
	if account == "" {
		e.ok("role", "%s: for an STS other than AWS's", arn)
		return
	}
	e.identity.Partition, e.identity.Account = fields[1], account
	e.ok("role", "%s: account %s, partition %s", arn, account, fields[1])
}

// roleName is the argument for aws iam, quoted for a shell: the name without the path.
func (e *examination) roleName() string {
	arn := e.Exchange.RoleARN
	if !presentable(arn) {
		return "ROLE"
	}
	return shellWord(arn[strings.LastIndexAny(arn, "/:")+1:], "ROLE")
}
