{{/* The sidecar, to be the first of a Pod's initContainers: {{- include "irsa-sidecar.container" . | nindent 8 }} */}}
{{- define "irsa-sidecar.container" -}}
{{- $v := required "the dependency must be named irsa-sidecar, without an alias" (get .Values "irsa-sidecar") -}}
- name: irsa-sidecar
  image: {{ $v.image | quote }}
  restartPolicy: Always
  env:
    {{- if $v.roleARN }}
    - {name: AWS_ROLE_ARN, value: {{ $v.roleARN | quote }}}
    - {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/irsa-sidecar/token}
    {{- end }}
    {{- if $v.region }}
    - {name: AWS_REGION, value: {{ $v.region | quote }}}
    {{- end }}
    - {name: IRSA_SIDECAR_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    {{- with $v.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: irsa-ops, containerPort: 9912}
  startupProbe:
    exec: {command: [/irsa-sidecar, healthcheck, startupz]}
    periodSeconds: 1
    timeoutSeconds: 3
    failureThreshold: 120
  livenessProbe:
    httpGet: {path: /livez, port: 9912}
    timeoutSeconds: 5
    failureThreshold: 6
  terminationMessagePolicy: FallbackToLogsOnError
  resources:
    {{- toYaml $v.resources | nindent 4 }}
  securityContext:
    runAsUser: 49911
    runAsNonRoot: true
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
    {{- if $v.roleARN }}
  volumeMounts:
    - {name: irsa-sidecar-token, mountPath: /var/run/secrets/irsa-sidecar, readOnly: true}
    {{- end }}
{{- end }}

{{/* The environment of the other containers: {{- include "irsa-sidecar.env" . | nindent 12 }} */}}
{{- define "irsa-sidecar.env" -}}
{{- $v := required "the dependency must be named irsa-sidecar, without an alias" (get .Values "irsa-sidecar") -}}
- {name: AWS_CONTAINER_CREDENTIALS_FULL_URI, value: "http://127.0.0.1:9911/v1/credentials"}
- {name: AWS_CONTAINER_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: ""}
- {name: AWS_EC2_METADATA_DISABLED, value: "true"}
  {{- if $v.region }}
- {name: AWS_REGION, value: {{ $v.region | quote }}}
- {name: AWS_DEFAULT_REGION, value: {{ $v.region | quote }}}
  {{- end }}
{{- end }}

{{/* The volumes of the Pod: {{- include "irsa-sidecar.volumes" . | nindent 8 }} */}}
{{- define "irsa-sidecar.volumes" -}}
{{- $v := required "the dependency must be named irsa-sidecar, without an alias" (get .Values "irsa-sidecar") -}}
{{- if $v.roleARN -}}
- name: irsa-sidecar-token
  projected:
    sources:
      - serviceAccountToken: {audience: sts.amazonaws.com, expirationSeconds: 86400, path: token}
{{- end }}
{{- end }}
