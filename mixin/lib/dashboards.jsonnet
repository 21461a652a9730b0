// One file for each dashboard.
local dashboards = (import '../mixin.libsonnet').grafanaDashboards;
{ [file]: dashboards[file] for file in std.objectFields(dashboards) }
