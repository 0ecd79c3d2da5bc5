{{/* First part of the names of all objects. Room is left for -operator and the like. */}}
{{- define "rowlock.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of everything. Ours are not app.kubernetes.io/name=rowlock alone: workers carry that too. */}}
{{- define "rowlock.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: rowlock
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: rowlock
{{- end -}}

{{/* Labels that select the pods of one component: (list . "operator") */}}
{{- define "rowlock.selector" -}}
app.kubernetes.io/name: rowlock
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "rowlock.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if .Values.image.digest -}}
{{- /* With a digest the tag is for people only, and only if they gave one. */ -}}
{{- printf "%s%s@%s" .Values.image.repository (empty .Values.image.tag | ternary "" (printf ":%s" $tag)) .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the database's URL, and its key. */}}
{{- define "rowlock.databaseSecret" -}}
{{- if .Values.database.embedded.enabled -}}
{{- printf "%s-postgres" (include "rowlock.fullname" .) -}}
{{- else -}}
{{- .Values.database.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "rowlock.databaseKey" -}}
{{- .Values.database.embedded.enabled | ternary "url" .Values.database.secretKey -}}
{{- end -}}

{{- define "rowlock.databaseEnv" -}}
- name: ROWLOCK_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "rowlock.databaseSecret" . }}
      key: {{ include "rowlock.databaseKey" . }}
{{- end -}}

{{/* Pod Security "restricted", for pods of our image: its user is a number, so none is set here. */}}
{{- define "rowlock.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "rowlock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods may be placed: the values of one component. */}}
{{- define "rowlock.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "rowlock.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Whether `helm test` can work: the operator must look at this namespace. */}}
{{- define "rowlock.testable" -}}
{{- if or (empty .Values.watch.namespaces) (has .Release.Namespace .Values.watch.namespaces) -}}yes{{- end -}}
{{- end -}}

{{/* The name of the test's WorkflowApp, which may have 20 characters. */}}
{{- define "rowlock.testName" -}}
{{- printf "%s-test" (.Release.Name | replace "." "-" | trunc 15 | trimSuffix "-") -}}
{{- end -}}
