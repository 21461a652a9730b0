// What is known of a GPU under one name, whether flyball's exporter, an existing dcgm-exporter or both measure it. Where both
// do, flyball's value is taken, so that a GPU is there once. Names are level:metric:operation or unit; labels are the cluster,
// instance, uuid and gpu (its index), and gi for an instance of MIG.
{
  local config = self._config,
  local q = import '../lib/promql.libsonnet',
  local own = config.flyballSelector,

  local gpu = [config.clusterLabel, 'instance', 'uuid', 'gpu'],
  local instance = gpu + ['gi'],

  local flyball(name) = q.select('flyball_gpu_' + name, [own]),
  local dcgm(name) = q.select('DCGM_FI_' + name, [config.dcgmSelector]),
  // dcgm-exporter's labels under our names; labels that are not there change nothing.
  local renamed(expr) =
    'label_replace(label_replace(%s, "uuid", "$1", "UUID", "(.+)"), "gi", "$1", "GPU_I_ID", "(.+)")' % expr,

  // A GPU that flyball knows is left out of what dcgm-exporter says, all of its instances.
  local either(labels, ours, theirs) =
    'max %(by)s (%(ours)s)\nor on (%(cluster)s, uuid)\nmax %(by)s (%(theirs)s)' % {
      by: q.by(labels),
      ours: ours,
      theirs: renamed(theirs),
      cluster: config.clusterLabel,
    },
  local record(name, labels, ours, theirs) = { record: 'gpu:' + name, expr: q.block(either(labels, ours, theirs)) },

  // The same of a GPU as a whole or, where MIG divides it, of its instances alone, which have names of their own with flyball: so that
  // sums count nothing twice.
  local divided(name, unit, theirs) =
    record(name, instance, '%(mig)s or (%(whole)s unless on (%(cluster)s, uuid) %(mig)s)' % {
      mig: flyball('mig_' + unit),
      whole: flyball(unit),
      cluster: config.clusterLabel,
    }, theirs),

  local mebi = 1024 * 1024,

  prometheusRules+:: {
    groups+: [
      {
        name: 'flyball-gpu',
        rules: [
          record('utilization:ratio', gpu, flyball('utilization_ratio'), dcgm('DEV_GPU_UTIL') + ' / 100'),
          divided('memory_used:bytes', 'memory_used_bytes', '%s * %d' % [dcgm('DEV_FB_USED'), mebi]),
          // Older versions of dcgm-exporter do not say what the driver reserves.
          divided('memory_total:bytes', 'memory_total_bytes', '(%(used)s + %(free)s + (%(reserved)s or 0 * %(used)s)) * %(mebi)d' % {
            used: dcgm('DEV_FB_USED'),
            free: dcgm('DEV_FB_FREE'),
            reserved: dcgm('DEV_FB_RESERVED'),
            mebi: mebi,
          }),
          record('power:watts', gpu, flyball('power_watts'), dcgm('DEV_POWER_USAGE')),
          // Mean watts by what was used, which no peak between two scrapes escapes.
          record('energy_joules:rate5m', gpu, 'rate(%s[5m])' % flyball('energy_joules_total'), 'rate(%s[5m]) / 1000' % dcgm('DEV_TOTAL_ENERGY_CONSUMPTION')),
          record('temperature:celsius', gpu, q.select('flyball_gpu_temperature_celsius', [own, 'sensor="gpu"']), dcgm('DEV_GPU_TEMP')),
          divided('sm_active:ratio', 'sm_active_ratio', dcgm('PROF_SM_ACTIVE')),
          divided('tensor_active:ratio', 'tensor_active_ratio', dcgm('PROF_PIPE_TENSOR_ACTIVE')),
          divided('dram_active:ratio', 'dram_active_ratio', dcgm('PROF_DRAM_ACTIVE')),
          {
            // dcgm-exporter says the number of the last error alone: another number is one more, at least.
            record: 'gpu:xid_errors:increase1h',
            expr: q.block(
              'sum %(by)s (increase(%(ours)s[1h]))\nor on (%(cluster)s, uuid)\nmax %(by)s (%(theirs)s)' % {
                by: q.by(gpu),
                cluster: config.clusterLabel,
                ours: flyball('xid_errors_total'),
                theirs: renamed('changes(%(xid)s[1h]) + ((%(xid)s > bool 0) unless %(xid)s offset 1h) or changes(%(xid)s[1h])' % { xid: dcgm('DEV_XID_ERRORS') }),
              },
            ),
          },
        ],
      },
    ],
  },
}
