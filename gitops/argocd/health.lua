-- Argo CD's health of an SFTJob: Progressing until it has ended and Suspended while it rests; then Healthy or Degraded.
-- `obj` is the SFTJob. Argo CD gives no library but the base one, tables and a safe part of os: no string.format.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function said(kind)
  return (conditions[kind] or {}).message or ""
end

-- The end is for good, whatever is changed in the spec after it.
local ended = conditions.Succeeded or {}
if ended.status == "True" then
  return { status = "Healthy", message = said("Succeeded") }
end
if ended.status == "False" then
  return { status = "Degraded", message = ended.reason .. ": " .. said("Succeeded") }
end

if status.observedGeneration ~= obj.metadata.generation then
  local held = ended.observedGeneration == obj.metadata.generation
  local why = held and (status.phase .. ": " .. said("Succeeded")) or "The operator has not seen this spec yet."
  return { status = "Progressing", message = why }
end

if status.phase == "Suspended" then
  return { status = "Suspended", message = said("Running") }
end

local message = (status.phase or "Pending") .. ": "
local progress = status.progress
if progress then
  message = message .. "step " .. progress.step .. " of " .. progress.maxSteps .. " (" .. progress.percent .. " %)"
  message = message .. (progress.lastReportTime and " at " .. progress.lastReportTime or "") .. ". "
end
local prepared = (conditions.Prepared or {}).status == "True"
return { status = "Progressing", message = message .. said(prepared and "Running" or "Prepared") }
