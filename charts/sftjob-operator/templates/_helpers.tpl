{{/* Name of every object of the release. */}}
{{- define "sftjob.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 37 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Name of an object of the cluster, which two releases in two namespaces must not share. */}}
{{- define "sftjob.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "sftjob.name" .) -}}
{{- end -}}

{{- define "sftjob.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sftjob.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "sftjob.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "sftjob.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "sftjob.name" .) -}}
{{- end -}}

{{/* Image reference. Arguments: the chart's root, and the value with repository, tag and digest. */}}
{{- define "sftjob.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.imageRegistry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Whether the operator makes the certificate itself: "true", or nothing. */}}
{{- define "sftjob.ownCertificate" -}}
{{- if not (or .Values.progress.tls.existingSecret .Values.progress.tls.certManager.enabled) -}}true{{- end -}}
{{- end -}}

{{/* Secret that holds the certificate. */}}
{{- define "sftjob.tlsSecret" -}}
{{- .Values.progress.tls.existingSecret | default (printf "%s-progress-tls" (include "sftjob.name" .)) -}}
{{- end -}}

{{/* Host name of the progress endpoint, as Pods of every namespace reach it. */}}
{{- define "sftjob.progressHost" -}}
{{- printf "%s.%s.svc" (include "sftjob.name" .) .Release.Namespace -}}
{{- end -}}

{{/*
Those of `namespaces` that exist, as JSON. Without a cluster to look at (helm template, GitOps) all of them: a cluster
always has the namespace default.
*/}}
{{- define "sftjob.servedNamespaces" -}}
{{- $connected := lookup "v1" "Namespace" "" "default" -}}
{{- $served := list -}}
{{- range .Values.namespaces -}}
{{- if or (not $connected) (lookup "v1" "Namespace" "" .) -}}
{{- $served = append $served . -}}
{{- end -}}
{{- end -}}
{{- toJson $served -}}
{{- end -}}

{{/* What the operator may do with jobs and their children: exactly the requests that it makes. */}}
{{- define "sftjob.jobRules" -}}
- apiGroups: [sftjob.dev]
  resources: [sftjobs]
  verbs: [get, list, watch]
- apiGroups: [sftjob.dev]
  resources: [sftjobs/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [create, delete, get, list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, delete, get, update]
- apiGroups: [""]
  resources: [persistentvolumeclaims, services]
  verbs: [create, delete, get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end -}}

{{- define "sftjob.subject" -}}
- kind: ServiceAccount
  name: {{ include "sftjob.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* Checks that the schema cannot express: combinations of values. */}}
{{- define "sftjob.checks" -}}
{{- $tls := .Values.progress.tls -}}
{{- if and $tls.existingSecret $tls.certManager.enabled -}}
{{- fail (printf "progress.tls.existingSecret is %q and progress.tls.certManager.enabled is true: write one of them" $tls.existingSecret) -}}
{{- end -}}
{{- if and $tls.certManager.enabled (not $tls.certManager.issuerRef.name) -}}
{{- fail "progress.tls.certManager.issuerRef.name is empty: write the name of a cert-manager issuer" -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.podMonitor.enabled is true and metrics.enabled is false: set metrics.enabled to true" -}}
{{- end -}}
{{- if and .Values.metrics.enabled (eq (int .Values.metrics.port) (int .Values.progress.port)) -}}
{{- fail (printf "metrics.port and progress.port are both %v: write two different ports" .Values.metrics.port) -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: write the name of the ServiceAccount" -}}
{{- end -}}
{{- if and .Values.networkPolicy.jobs.enabled (not .Values.namespaces) -}}
{{- fail "networkPolicy.jobs.enabled is true and namespaces is empty: list the namespaces that get the policy" -}}
{{- end -}}
{{- end -}}
