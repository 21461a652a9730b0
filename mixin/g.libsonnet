// A small builder for Grafana's classic dashboards (schema version 39: read by every Grafana from 10.3 on, and without
// panels that need Angular). Every panel has a title, a description and a unit, because the functions ask for them.
{
  local datasource = { type: 'prometheus', uid: '$datasource' },

  // One query of a panel.
  target(expr, legend=null, instant=false, format='time_series'):: {
    datasource: datasource,
    expr: std.rstripChars(expr, '\n'),
    [if legend != null then 'legendFormat']: legend,
    instant: instant,
    range: !instant,
    format: format,
  },

  local panel(type, title, description, unit, targets, w, h) = {
    type: type,
    title: title,
    description: description,
    datasource: datasource,
    gridPos: { w: w, h: h },
    fieldConfig: { defaults: { unit: unit }, overrides: [] },
    targets: std.mapWithIndex(function(i, t) t { refId: std.char(65 + i) }, targets),
  },

  // Lines over time. stack is for parts of a whole.
  timeseries(title, description, unit, targets, w=8, h=7, min=0, max=null, stack=false, overrides=[]):: panel('timeseries', title, description, unit, targets, w, h) {
    fieldConfig+: {
      defaults+: {
        custom: {
          drawStyle: 'line',
          lineWidth: 1,
          fillOpacity: if stack then 40 else 8,
          showPoints: 'never',
          spanNulls: false,
          stacking: { mode: if stack then 'normal' else 'none', group: 'A' },
        },
        [if min != null then 'min']: min,
        [if max != null then 'max']: max,
      },
      overrides: overrides,
    },
    options: {
      legend: { displayMode: 'table', placement: 'bottom', showLegend: true, calcs: ['lastNotNull', 'max'] },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  },

  // One number. steps are [from, color] pairs, the first from null.
  stat(title, description, unit, targets, w=3, h=4, decimals=null, steps=[[null, 'text']]):: panel('stat', title, description, unit, targets, w, h) {
    fieldConfig+: {
      defaults+: {
        [if decimals != null then 'decimals']: decimals,
        thresholds: { mode: 'absolute', steps: [{ value: s[0], color: s[1] } for s in steps] },
      },
    },
    options: {
      colorMode: 'value',
      graphMode: 'area',
      justifyMode: 'auto',
      orientation: 'auto',
      textMode: 'auto',
      wideLayout: true,
      showPercentChange: false,
      percentChangeColorMode: 'standard',
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
    },
  },

  // A table of the values now: one row for each set of labels, one column for each target. columns are {name, unit} in
  // the order of the targets.
  table(title, description, labels, columns, targets, w=24, h=7):: panel('table', title, description, 'short', targets, w, h) {
    options: { showHeader: true, cellHeight: 'sm' },
    fieldConfig+: {
      overrides: [
        { matcher: { id: 'byName', options: c.name }, properties: [{ id: 'unit', value: c.unit }] }
        for c in columns
      ],
    },
    transformations: [
      { id: 'merge', options: {} },
      {
        id: 'organize',
        options: {
          excludeByName: { Time: true },
          indexByName: { [labels[i]]: i for i in std.range(0, std.length(labels) - 1) },
          // A single target's column is called Value, several are Value #A, Value #B and so on.
          renameByName: {
            [if std.length(columns) == 1 then 'Value' else 'Value #' + std.char(65 + i)]: columns[i].name
            for i in std.range(0, std.length(columns) - 1)
          },
        },
      },
    ],
  },

  // A part of the dashboard: a heading and its panels, in lines of 24 columns.
  row(title, panels):: { title: title, panels: panels },

  // override sets how one series is drawn, such as a bound that is dashed.
  override(name, properties):: {
    matcher: { id: 'byName', options: name },
    properties: [{ id: p, value: properties[p] } for p in std.objectFields(properties)],
  },

  datasourceVariable(config):: {
    name: 'datasource',
    label: 'Data source',
    type: 'datasource',
    query: 'prometheus',
    regex: config.datasourceFilterRegex,
    current: { text: config.datasourceName, value: config.datasourceName },
    hide: 0,
    includeAll: false,
    multi: false,
    options: [],
    refresh: 1,
    skipUrlSync: false,
  },

  // A variable over the values of a label. All is every value, none included.
  labelVariable(name, label, query, hide=false):: {
    name: name,
    label: label,
    type: 'query',
    datasource: datasource,
    query: { query: query, refId: 'variable-' + name },
    regex: '',
    current: { text: ['All'], value: ['$__all'] },
    allValue: '.*',
    includeAll: true,
    multi: true,
    hide: if hide then 2 else 0,
    options: [],
    refresh: 2,
    skipUrlSync: false,
    sort: 1,
  },

  // Marks on every chart.
  annotation(name, color, expr, title, text):: {
    name: name,
    datasource: datasource,
    enable: true,
    hide: false,
    iconColor: color,
    target: { refId: 'Anno', expr: expr },
    titleFormat: title,
    textFormat: text,
    useValueForTime: false,
  },

  dashboard(file, title, description, config, variables, annotations, rows, links=[]):: {
    uid: config.grafanaDashboardIDs[file],
    title: config.dashboardNamePrefix + title,
    description: description,
    tags: config.tags,
    schemaVersion: 39,
    version: 1,
    editable: false,
    graphTooltip: 1,
    refresh: config.refresh,
    time: { from: config.from, to: 'now' },
    timepicker: {},
    timezone: config.timezone,
    fiscalYearStartMonth: 0,
    weekStart: '',
    links: [
      {
        title: 'More of flyball',
        type: 'dashboards',
        tags: config.tags,
        asDropdown: true,
        includeVars: true,
        keepTime: true,
        targetBlank: false,
        icon: 'external link',
        tooltip: '',
        url: '',
      },
    ] + links,
    annotations: {
      list: [
        {
          name: 'Annotations & Alerts',
          builtIn: 1,
          datasource: { type: 'grafana', uid: '-- Grafana --' },
          enable: true,
          hide: true,
          iconColor: 'rgba(0, 211, 255, 1)',
          type: 'dashboard',
        },
      ] + annotations,
    },
    templating: { list: variables },
    panels: layout(rows),
  },

  // layout gives every row and panel its place and number.
  local layout(rows) =
    local place(at, panel) =
      // at is where the next panel goes: column, line, and the height of the tallest panel of this line.
      local fits = at.x + panel.gridPos.w <= 24;
      local x = if fits then at.x else 0;
      local y = if fits then at.y else at.y + at.tallest;
      {
        x: x + panel.gridPos.w,
        y: y,
        tallest: if fits then std.max(at.tallest, panel.gridPos.h) else panel.gridPos.h,
        panels: at.panels + [panel { id: at.id, gridPos+: { x: x, y: y } }],
        id: at.id + 1,
      };
    local addRow(at, row) =
      local heading = {
        id: at.id,
        type: 'row',
        title: row.title,
        collapsed: false,
        gridPos: { x: 0, y: at.y + at.tallest, w: 24, h: 1 },
        panels: [],
      };
      std.foldl(place, row.panels, {
        x: 0,
        y: at.y + at.tallest + 1,
        tallest: 0,
        panels: at.panels + [heading],
        id: at.id + 1,
      });
    std.foldl(addRow, rows, { x: 0, y: 0, tallest: 0, panels: [], id: 1 }).panels,
}
