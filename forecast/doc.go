// Package forecast says what comes next in a series of demand, how sure that is, and why it thinks so. It needs the standard
// library alone, and no package of flyball.
//
// # Use
//
// A [Forecaster] takes one series, a value a step, and always has a forecast: [New], [Forecaster.Fit] for a history if there
// is one, [Forecaster.Observe] for each new value, [Forecaster.Forecast] for means and quantiles of the steps ahead,
// [Forecaster.Refit] when [Forecaster.Due] says so. [Forecaster.Explain] has the reasons and [Forecaster.Coverage] how often
// the quantiles kept their promise; [Forecaster.Skill] says whether there is anything to foresee.
// [Event] is for what comes at known times, [Forecaster.FitWith] and [Forecaster.ObserveWith] take what moves the series. What it knows survives a
// restart by [Forecaster.MarshalBinary].
//
// [Spec], [Model] and their Fit are the models by themselves; [HoltWinters] and [SES] are those of R.
//
// # Models
//
// All models are members of one recursion, the additive innovations state space with an autocorrelated error (Hyndman,
// Koehler, Ord and Snyder: Forecasting with Exponential Smoothing, Springer 2008; two seasons and the AR(1) error after
// Taylor: Short-term electricity demand forecasting using double seasonal exponential smoothing, JORS 54, 2003):
//
//	forecast   f = l + φb + s1 + s2 + ρe
//	error      u = y - f
//	level      l = l + φb + αu
//	slope      b = φb + βu
//	season     s = s + γu
//	residual   e = y - (l + φb + s1 + s2)    with the l, b and s of before
//
// h steps ahead the forecast is l + (φ + φ² + ... + φʰ)b + s1 + s2 + ρʰe with the seasons of that step. A missing value (NaN)
// is taken to be as it was forecast: l = l + φb, b = φb, e = ρe.
//
//	naive                        α = 1, nothing else
//	seasonal_naive               γ = 1, α = 0
//	ses                          level
//	holt, holt_damped            level, slope; φ = 1, or from 0.8 to 0.999 (Gardner and McKenzie 1985)
//	holt_winters, ..._damped     level, slope, season
//	holt_winters_multiplicative  the season scales the level; R's recursion
//	ets_ar, ets_ar_mae           level, season, AR(1)
//	ets_ar_damped                level, damped slope, season, AR(1)
//
// R's HoltWinters smooths states by states: s = γ(y-l) + (1-γ)s with the new l, and b = β(l-l') + (1-β)b with the l' of before.
// The same series come from α, αβ and (1-α)γ here. R starts with a decomposition of two seasons and counts errors from the
// third on; so sums of squares of different programs are not comparable, but those of the same start values are, and the
// tests hold them to R's within 1e-9 of their value on eight published series.
//
// # Fitting
//
// Parameters come from the simplex of Nelder and Mead over logistic maps, within α in (0, 1), β ≤ α, γ ≤ 1-α, φ and ρ below
// 1. Start values are medians, not parameters, and errors count only after the cycles that they are made of. The loss is
// the sum of squared errors one step ahead ([SSE]), or of absolute errors at several ([MAE]): one step is not an hour, and a
// model that is best at the one is often bad at the other.
//
// # Selection
//
// The forecast is the mean of all members, weighted by their recent error to the power of -5: errors one step, two fifths
// and five sixths of the horizon ahead, each fading by half in a day. Seasons of an hour, a day and a week are candidates from
// two cycles on, if the autocorrelation of what is left of the values without their moving average is above 0.2 and above
// 1.96/√n; their members go again if their error is a quarter above that of the others.
//
// Two things that were measured are left out. The pool on log(1+y) gains where demand is far from 0 (the geometric mean of the
// error over the last value's is 0.546 and not 0.577 on CPU load, sMAPE 9.12 and not 9.61 on M4's hourly series), and loses where
// it is often 0 (0.881 and not 0.786 on LLM demand, on one series half as much again as the last value). And a guard that goes
// over to the last value where that was twice as good in the last hours makes LLM demand 4 % worse: its nights are flat, and
// then comes the morning.
//
// # Values far out
//
// A value that is off by twenty recent errors, and by the whole forecast too, is drawn in to that before models, weights and
// quantiles see it (after Gelper, Fried and Croux: Robust forecasting with exponential and Holt-Winters smoothing, Journal of
// Forecasting 29, 2010); after three in a row on one side it is a shift, and the values count as they are.
//
// # Events and regressors
//
// With [Options].Events and [Options].Regressors a value is
//
//	y = (base + Σ β z) (1 + Σ (lift - 1) share)
//
// where share is how much of the step has the event, and z a regressor in standard deviations from its mean. The models see the base
// alone, so that neither levels nor seasons, weights or quantiles have to follow what is known to come; a quantile's distance
// from the mean goes with the factor.
//
// The lift of an event is learned from its occurrences. As one begins, the base is forecast to its end; the occurrence's lift is
// that of least squares, 1 + Σ share (y - base) / Σ share² base, from values seen so far, with what is known from before counting as
// four of its steps. As it ends it joins the mean of those before, each of which counts for four fifths as much as the next, and
// the prior as one before all. In a history the base of an event's steps comes from the same time of other days.
//
// The coefficients β are learned by recursive least squares (Ljung and Söderström: Theory and Practice of Recursive
// Identification, MIT Press 1983; λ = 0.999) of the error that the base leaves one step ahead on what is new in z: z less its
// exponential mean, as the base's level is of the values. A second pool sees the values with the regressors' effect in them, and is
// what forecasts unless the recent error with them is 2 % smaller. Of a step ahead whose regressors are not known ([Forecaster.Ahead])
// the last ones hold.
//
// # Quantiles
//
// For each level τ and each of those horizons a quantile of the error is tracked: q goes down by 2ηs(1 - τ) after an error at or
// below it, and up by 2ηsτ after one above, where s is the recent mean absolute error (conformal P control: Angelopoulos, Candès
// and Tibshirani, NeurIPS 2023; Gibbs and Candès, NeurIPS 2021). It starts as that of the errors in the history. Over missing
// values quantiles widen with the square root of the time. In bursts they cover one to six points less than they promise,
// as every method that was measured does: look at Coverage before relying on a number.
package forecast
