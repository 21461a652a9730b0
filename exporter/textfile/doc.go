// Package textfile publishes metrics that other programs leave in files: a cron job's, a benchmark's, those of a model's
// evaluation. It reads what node_exporter's textfile collector reads, so a directory can be moved from one to the other.
//
//	c := textfile.New(textfile.Options{Directory: "/var/lib/node_exporter/textfile"})
//	e, err := exporter.New(exporter.Options{}, hosts, gpus, c) // last: where names clash, the others keep theirs
//
// Every file of the directory whose name ends in .prom is read, in Prometheus's text format, through symbolic links too
// (a ConfigMap's files are such). It is parsed again only when it has changed. With the metrics come
//
//	flyball_textfile_mtime_seconds{file}  when the file was written, for those that were read: alert on its age
//	flyball_textfile_scrape_error         1 if anything could not be read, 0 if all was
//
// A file costs nothing but itself: one that is malformed, cut off in the middle of a line, larger than 16 MiB, no regular
// file, or has timestamps (which would make old values look like new ones) is left out as a whole, named in the log, and
// makes flyball_collector_success{collector="textfile"} 0. So does a family that two files describe differently, of which
// that of the first file, by name, is kept. All files together may have 32 MiB and 200,000 series, in the order of their names: one
// that would have them be more is left out, and those after it that fit are not.
//
// A file that is being written is read as far as it has got, which may look complete. Write to another name, then rename:
//
//	evaluate >accuracy.prom.$$ && mv accuracy.prom.$$ accuracy.prom
package textfile
