{{/* The sidecar, to be the first of a Pod's initContainers: {{- include "irsa-sidecar.container" . | nindent 8 }} */}}
{{- define "irsa-sidecar.container" -}}
{{- $v := required "the dependency must be named irsa-sidecar, without an alias" (get .Values "irsa-sidecar") -}}
- [[container "chart" | indent 2]]
{{- end }}

{{/* The environment of the other containers: {{- include "irsa-sidecar.env" . | nindent 12 }} */}}
{{- define "irsa-sidecar.env" -}}
{{- $v := required "the dependency must be named irsa-sidecar, without an alias" (get .Values "irsa-sidecar") -}}
[[env "chart"]]
{{- end }}

{{/* The volumes of the Pod: {{- include "irsa-sidecar.volumes" . | nindent 8 }} */}}
{{- define "irsa-sidecar.volumes" -}}
{{- $v := required "the dependency must be named irsa-sidecar, without an alias" (get .Values "irsa-sidecar") -}}
{{- if $v.roleARN -}}
[[volume "chart"]]
{{- end }}
{{- end }}
