// Package eval reads series of demand from files and measures how well they are forecast: from many origins, beside the
// baselines that any forecast has to beat, with the scores that the literature uses, so that a figure can be compared with
// a published one. It also scores detectors of anomalies as the Numenta Anomaly Benchmark does.
//
// ReadCSV makes series of a file, each on one step. A Rolling walks through a series: it fits on the first part, then
// forecasts again and again while the values arrive, and never looks ahead. What it drives is a Forecaster, of which
// NewBaseline has three. NABProfile scores what a detector said of files whose anomalies are known.
package eval
