{{/* The sidecar, for the first place in a Pod's initContainers: {{- include "irsa-sidecar.container" . | nindent 8 }} */}}
{{- define "irsa-sidecar.container" -}}
{{- $v := get .Values "irsa-sidecar" | default .Values -}}
- [[container "chart" | indent 2]]
{{- end }}

{{/* The environment of the other containers: {{- include "irsa-sidecar.env" . | nindent 12 }} */}}
{{- define "irsa-sidecar.env" -}}
{{- $v := get .Values "irsa-sidecar" | default .Values -}}
[[env "chart"]]
{{- end }}

{{/* The volumes of the Pod: {{- include "irsa-sidecar.volumes" . | nindent 8 }} */}}
{{- define "irsa-sidecar.volumes" -}}
{{- $v := get .Values "irsa-sidecar" | default .Values -}}
{{- if $v.roleARN -}}
[[volume "chart"]]
{{- end }}
{{- end }}
