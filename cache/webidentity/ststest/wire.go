package ststest

import (
	"io"
	"net/http"
	"strings"
	"text/template"
)

const xmlNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// The responses are templates rather than structs, so that they can be compared with captures, and because encoding/xml
// would turn every quote in AWS's messages into an entity.

var (
	successXML = newXML(`<AssumeRoleWithWebIdentityResponse xmlns="` + xmlNamespace + `">
  <AssumeRoleWithWebIdentityResult>
    <Audience>{{xml .Audience}}</Audience>
    <AssumedRoleUser>
      <AssumedRoleId>{{xml .AssumedRoleID}}</AssumedRoleId>
      <Arn>{{xml .AssumedRoleARN}}</Arn>
    </AssumedRoleUser>
    <Provider>{{xml .Provider}}</Provider>
    <Credentials>
      <AccessKeyId>{{xml .Session.AccessKeyID}}</AccessKeyId>
      <SecretAccessKey>{{xml .Session.SecretAccessKey}}</SecretAccessKey>
      <SessionToken>{{xml .Session.SessionToken}}</SessionToken>
      <Expiration>{{xml .Expiration}}</Expiration>
    </Credentials>
    <SubjectFromWebIdentityToken>{{xml .Subject}}</SubjectFromWebIdentityToken>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata>
    <RequestId>{{xml .RequestID}}</RequestId>
  </ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>
`)

	assumeRoleXML = newXML(`<AssumeRoleResponse xmlns="` + xmlNamespace + `">
  <AssumeRoleResult>
    <AssumedRoleUser>
      <AssumedRoleId>{{xml .AssumedRoleID}}</AssumedRoleId>
      <Arn>{{xml .AssumedRoleARN}}</Arn>
    </AssumedRoleUser>
    <Credentials>
      <AccessKeyId>{{xml .Session.AccessKeyID}}</AccessKeyId>
      <SecretAccessKey>{{xml .Session.SecretAccessKey}}</SecretAccessKey>
      <SessionToken>{{xml .Session.SessionToken}}</SessionToken>
      <Expiration>{{xml .Expiration}}</Expiration>
    </Credentials>
{{- if .Session.SourceIdentity}}
    <SourceIdentity>{{xml .Session.SourceIdentity}}</SourceIdentity>
{{- end}}
  </AssumeRoleResult>
  <ResponseMetadata>
    <RequestId>{{xml .RequestID}}</RequestId>
  </ResponseMetadata>
</AssumeRoleResponse>
`)

	callerXML = newXML(`<GetCallerIdentityResponse xmlns="` + xmlNamespace + `">
  <GetCallerIdentityResult>
    <Arn>{{xml .Arn}}</Arn>
    <UserId>{{xml .UserID}}</UserId>
    <Account>{{xml .Account}}</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>{{xml .RequestID}}</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
`)

	errorXML = newXML(`<ErrorResponse xmlns="{{xml .Namespace}}">
  <Error>
    <Type>{{xml .Type}}</Type>
    <Code>{{xml .Code}}</Code>
    <Message>{{xml .Message}}</Message>
  </Error>
  <RequestId>{{xml .RequestID}}</RequestId>
</ErrorResponse>
`)
)

func newXML(text string) *template.Template {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	return template.Must(template.New("").Funcs(template.FuncMap{"xml": escape.Replace}).Parse(text))
}

func writeXML(w http.ResponseWriter, status int, document *template.Template, values map[string]any) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	if err := document.Execute(w, values); err != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
}

func writeFault(w http.ResponseWriter, f Fault, requestID string) {
	writeFaultOf(w, xmlNamespace, f, requestID)
}

// writeFaultOf is for a service with this namespace.
func writeFaultOf(w http.ResponseWriter, namespace string, f Fault, requestID string) {
	if f.Body == "" && f.Code != "" {
		writeXML(w, f.status(), errorXML, map[string]any{
			"Namespace": namespace, "Type": f.side(), "Code": f.Code, "Message": f.Message, "RequestID": requestID,
		})
		return
	}
	contentType := f.ContentType
	if contentType == "" {
		contentType = "text/xml"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(f.status())
	io.WriteString(w, f.Body)
}
