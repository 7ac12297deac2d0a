package ststest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/template"
	"unicode"
)

const (
	iamVersion   = "2010-05-08"
	iamNamespace = "https://iam.amazonaws.com/doc/2010-05-08/"

	// maxTrustPolicy is IAM's default quota for a trust policy, in characters that are not white space.
	// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
	maxTrustPolicy = 2048
)

// iamAction changes or reads what IAM has. It puts what its response shows into values.
type iamAction struct {
	do       func(a *Account, o *Options, form url.Values, values map[string]any) *Fault
	response *template.Template
}

var iamActions = map[string]iamAction{
	"GetRole":                                 {(*Account).getRole, iamXML(`<Role>` + roleXML + `</Role>`)},
	"ListRoles":                               {(*Account).listRoles, iamXML(`<IsTruncated>false</IsTruncated><Roles>{{range .Roles}}<member>{{with .}}` + roleXML + `{{end}}</member>{{end}}</Roles>`)},
	"UpdateAssumeRolePolicy":                  {(*Account).updateTrustPolicy, iamXML("")},
	"ListOpenIDConnectProviders":              {(*Account).listProviders, iamXML(`<OpenIDConnectProviderList>{{range .Providers}}<member><Arn>{{xml .}}</Arn></member>{{end}}</OpenIDConnectProviderList>`)},
	"GetOpenIDConnectProvider":                {(*Account).getProvider, iamXML(providerXML)},
	"CreateOpenIDConnectProvider":             {(*Account).createProvider, iamXML(`<OpenIDConnectProviderArn>{{xml .Arn}}</OpenIDConnectProviderArn>`)},
	"DeleteOpenIDConnectProvider":             {(*Account).deleteProvider, iamXML("")},
	"AddClientIDToOpenIDConnectProvider":      {(*Account).addClientID, iamXML("")},
	"RemoveClientIDFromOpenIDConnectProvider": {(*Account).removeClientID, iamXML("")},
	"UpdateOpenIDConnectProviderThumbprint":   {(*Account).updateThumbprints, iamXML("")},
}

const (
	// AssumeRolePolicyDocument is URL-encoded, as RFC 3986 has it.
	roleXML = `<Path>{{xml .Path}}</Path><RoleName>{{xml .Name}}</RoleName><RoleId>{{xml .ID}}</RoleId><Arn>{{xml .Arn}}</Arn>` +
		`<CreateDate>2026-01-02T03:04:05Z</CreateDate><AssumeRolePolicyDocument>{{xml .Document}}</AssumeRolePolicyDocument><MaxSessionDuration>{{.Seconds}}</MaxSessionDuration>`

	providerXML = `<Url>{{xml .URL}}</Url><CreateDate>2026-01-02T03:04:05Z</CreateDate>` +
		`<ClientIDList>{{range .Provider.ClientIDs}}<member>{{xml .}}</member>{{end}}</ClientIDList>` +
		`<ThumbprintList>{{range .Provider.Thumbprints}}<member>{{xml .}}</member>{{end}}</ThumbprintList>`
)

func iamXML(result string) *template.Template {
	return newXML(`<{{.Action}}Response xmlns="` + iamNamespace + `"><{{.Action}}Result>` + result + `</{{.Action}}Result>` +
		`<ResponseMetadata><RequestId>{{xml .RequestID}}</RequestId></ResponseMetadata></{{.Action}}Response>` + "\n")
}

func noSuchEntity(format string, args ...any) *Fault {
	return &Fault{Status: http.StatusNotFound, Code: "NoSuchEntity", Message: fmt.Sprintf(format, args...)}
}

// malformedPolicy is for a trust policy that IAM does not accept.
func malformedPolicy(message string) *Fault {
	return &Fault{Status: http.StatusBadRequest, Code: "MalformedPolicyDocument", Message: message}
}

// roles returns the roles of the operator's account.
func (a *Account) roles(o *Options) (roles []role) {
	for _, arn := range append([]string{o.RoleARN}, a.options.OtherRoles...) {
		if r, ok := parseRole(arn); ok && r.account == a.id {
			roles = append(roles, r)
		}
	}
	return roles
}

// role returns the role with the name in a form.
func (a *Account) role(o *Options, form url.Values) (role, *Fault) {
	name := form.Get("RoleName")
	for _, r := range a.roles(o) {
		if r.name == name {
			return r, nil
		}
	}
	return role{}, noSuchEntity("The role with name %s cannot be found.", name)
}

func (o *Options) describe(r role) map[string]any {
	_, path, _ := strings.Cut(strings.TrimSuffix(r.arn, r.name), ":role")
	return map[string]any{
		"Path": path, "Name": r.name, "ID": r.id(), "Arn": r.arn,
		"Document": strings.ReplaceAll(url.QueryEscape(o.TrustPolicy), "+", "%20"), "Seconds": int(o.MaxSessionDuration.Seconds()),
	}
}

func (a *Account) getRole(o *Options, form url.Values, values map[string]any) *Fault {
	r, refusal := a.role(o, form)
	if refusal == nil {
		for name, value := range o.describe(r) {
			values[name] = value
		}
	}
	return refusal
}

func (a *Account) listRoles(o *Options, form url.Values, values map[string]any) *Fault {
	var all []map[string]any
	for _, r := range a.roles(o) {
		if described := o.describe(r); strings.HasPrefix(described["Path"].(string), form.Get("PathPrefix")) {
			all = append(all, described)
		}
	}
	values["Roles"] = all
	return nil
}

func (a *Account) updateTrustPolicy(o *Options, form url.Values, _ map[string]any) *Fault {
	if _, refusal := a.role(o, form); refusal != nil {
		return refusal
	}
	document := form.Get("PolicyDocument")
	if refusal := checkTrustPolicy(document); refusal != nil {
		return refusal
	}
	o.TrustPolicy = document
	return nil
}

// checkTrustPolicy refuses what IAM refuses, in its words as far as they are known.
// https://docs.aws.amazon.com/IAM/latest/APIReference/API_UpdateAssumeRolePolicy.html
func checkTrustPolicy(document string) *Fault {
	size := 0
	for _, r := range document {
		if r > 0xff {
			return new(validationError(`1 validation error detected: Value at 'policyDocument' failed to satisfy constraint: Member must satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+`))
		}
		if !unicode.IsSpace(r) {
			size++
		}
	}
	if size > maxTrustPolicy {
		return &Fault{Status: http.StatusConflict, Code: "LimitExceeded", Message: fmt.Sprintf("Cannot exceed quota for ACLSizePerRole: %d", maxTrustPolicy)}
	}
	var policy struct{ Statement json.RawMessage }
	if err := json.Unmarshal([]byte(document), &policy); err != nil {
		return malformedPolicy("This policy contains invalid Json")
	}
	statements := []map[string]any{{}}
	if json.Unmarshal(policy.Statement, &statements[0]) != nil && (json.Unmarshal(policy.Statement, &statements) != nil || len(statements) == 0) {
		return malformedPolicy("Syntax errors in policy.")
	}
	for _, s := range statements {
		if refusal := checkStatement(s); refusal != nil {
			return refusal
		}
	}
	return nil
}

func checkStatement(s map[string]any) *Fault {
	principal, _ := s["Principal"].(map[string]any)
	switch effect := s["Effect"]; {
	case effect != "Allow" && effect != "Deny":
		return malformedPolicy("Syntax errors in policy.")
	case s["Resource"] != nil || s["NotResource"] != nil:
		return malformedPolicy("Has prohibited field Resource")
	case s["Principal"] == nil && s["NotPrincipal"] == nil:
		return malformedPolicy("Missing required field Principal")
	case s["Action"] == nil && s["NotAction"] == nil:
		return malformedPolicy("Missing required field Action cannot be empty!")
	}
	for _, arn := range texts(principal["Federated"]) {
		known := slices.Contains([]string{"accounts.google.com", "www.amazon.com", "graph.facebook.com", "cognito-identity.amazonaws.com"}, arn)
		if !known && !strings.HasPrefix(arn, "arn:") {
			return malformedPolicy("Federated principals must be valid domain names or SAML metadata ARNs")
		}
		if fields := strings.Split(arn, ":"); !known && (len(fields) < 6 || len(fields[4]) != 12 || strings.Trim(fields[4], "0123456789") != "") {
			return malformedPolicy(fmt.Sprintf(`Invalid principal in policy: "FEDERATED":%q`, arn))
		}
	}
	for _, action := range texts(s["Action"]) {
		if !strings.HasPrefix(strings.ToLower(action), "sts:") {
			return malformedPolicy("AssumeRole policy may only specify STS AssumeRole actions.")
		}
	}
	return nil
}

// texts returns the strings of what is one in JSON, or a list of them.
func texts(v any) (all []string) {
	list, many := v.([]any)
	if !many {
		list = []any{v}
	}
	for _, item := range list {
		if text, ok := item.(string); ok {
			all = append(all, text)
		}
	}
	return all
}

// The OIDC providers.

func (a *Account) providerARN(p Provider) string {
	_, name, _ := strings.Cut(p.Issuer, "://")
	return "arn:" + a.partition + ":iam::" + a.id + ":oidc-provider/" + name
}

// provider returns the provider with the ARN in a form. What is done to it is kept.
func (a *Account) provider(o *Options, form url.Values) (*Provider, *Fault) {
	arn := form.Get("OpenIDConnectProviderArn")
	o.Providers = slices.Clone(o.providers())
	if !a.foreign(o) {
		for i := range o.Providers {
			if a.providerARN(o.Providers[i]) == arn {
				return &o.Providers[i], nil
			}
		}
	}
	return nil, noSuchEntity("OpenIDConnect Provider not found for arn %s", arn)
}

// foreign reports whether the operator is in another account than the role.
func (a *Account) foreign(o *Options) bool {
	r, ok := parseRole(o.RoleARN)
	return ok && r.account != a.id
}

func (a *Account) listProviders(o *Options, _ url.Values, values map[string]any) *Fault {
	var arns []string
	if !a.foreign(o) {
		for _, p := range o.providers() {
			arns = append(arns, a.providerARN(p))
		}
	}
	values["Providers"] = arns
	return nil
}

func (a *Account) getProvider(o *Options, form url.Values, values map[string]any) *Fault {
	p, refusal := a.provider(o, form)
	if refusal == nil {
		_, values["URL"], _ = strings.Cut(p.Issuer, "://")
		values["Provider"] = *p
	}
	return refusal
}

// createProvider gives a provider without thumbprints none: IAM reads the certificate itself.
func (a *Account) createProvider(o *Options, form url.Values, values map[string]any) *Fault {
	issuer := form.Get("Url")
	if u, err := url.Parse(issuer); err != nil || u.Scheme != "https" && u.Hostname() != "127.0.0.1" || u.Host == "" {
		return new(validationError("Invalid Open ID Connect Provider URL"))
	}
	if a.foreign(o) {
		return new(a.Forbidden("iam:CreateOpenIDConnectProvider", issuer))
	}
	created := Provider{Issuer: issuer, ClientIDs: members(form, "ClientIDList"), Thumbprints: members(form, "ThumbprintList")}
	if slices.ContainsFunc(o.providers(), func(p Provider) bool { return a.providerARN(p) == a.providerARN(created) }) {
		return &Fault{Status: http.StatusConflict, Code: "EntityAlreadyExists", Message: "Provider with url " + issuer + " already exists."}
	}
	o.Providers = append(slices.Clone(o.providers()), created)
	values["Arn"] = a.providerARN(created)
	return nil
}

// deleteProvider succeeds without a provider, as IAM does.
func (a *Account) deleteProvider(o *Options, form url.Values, _ map[string]any) *Fault {
	if a.foreign(o) {
		return nil
	}
	left := []Provider{}
	for _, p := range o.providers() {
		if a.providerARN(p) != form.Get("OpenIDConnectProviderArn") {
			left = append(left, p)
		}
	}
	o.Providers = left
	return nil
}

func (a *Account) addClientID(o *Options, form url.Values, _ map[string]any) *Fault {
	p, refusal := a.provider(o, form)
	if id := form.Get("ClientID"); refusal == nil && !slices.Contains(p.ClientIDs, id) {
		p.ClientIDs = append(slices.Clone(p.ClientIDs), id)
	}
	return refusal
}

func (a *Account) removeClientID(o *Options, form url.Values, _ map[string]any) *Fault {
	p, refusal := a.provider(o, form)
	if refusal == nil {
		p.ClientIDs = slices.DeleteFunc(slices.Clone(p.ClientIDs), func(id string) bool { return id == form.Get("ClientID") })
	}
	return refusal
}

func (a *Account) updateThumbprints(o *Options, form url.Values, _ map[string]any) *Fault {
	p, refusal := a.provider(o, form)
	if refusal == nil {
		p.Thumbprints = members(form, "ThumbprintList")
	}
	return refusal
}

// members returns a list of the query protocol, in order.
func members(form url.Values, name string) (all []string) {
	for n := 1; form.Has(fmt.Sprintf("%s.member.%d", name, n)); n++ {
		all = append(all, form.Get(fmt.Sprintf("%s.member.%d", name, n)))
	}
	return all
}
