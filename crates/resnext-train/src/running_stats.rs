//! Running statistics of batch norms that several processes move, each by its own part of a batch.

use crate::distributed::processes::Processes;
use crate::error::Result;
use candle_core::{DType, Tensor, Var};

/// The running statistics of batch norms, each with a copy from before a step, from which follows how the step moved it.
pub(crate) struct RunningStatsBefore(Vec<(Var, Tensor)>);

impl RunningStatsBefore {
    /// Copies those among the named `variables`.
    pub(crate) fn copy(variables: Vec<(String, Var)>) -> Result<Self> {
        let running = |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let own = variables.into_iter().filter(|(name, _)| running(name));
        let copy = |(_, var): (String, Var)| -> Result<(Var, Tensor)> {
            let before = var.as_detached_tensor().copy()?;
            Ok((var, before))
        };
        Ok(RunningStatsBefore(own.map(copy).collect::<Result<_>>()?))
    }

    /// Moves them by the weighted mean of all processes' moves, this one's having weight `share`, so that all hold the
    /// same ones. What no process has moved keeps its bits. Returns whether `flag` is set in any process, which travels
    /// in the same exchange.
    pub(crate) fn average(self, processes: &Processes, share: f64, flag: bool) -> Result<bool> {
        if processes.size() == 1 {
            return Ok(flag);
        }
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.to_vec1::<f64>();
        let mut moves = Vec::new();
        for (var, before) in &self.0 {
            let (now, before) = (wide(&var.as_detached_tensor())?, wide(before)?);
            moves.extend(now.iter().zip(&before).map(|(now, before)| share * (now - before)));
        }
        moves.push(f64::from(u8::from(flag)));
        processes.sum_f64(&mut moves, "ending the step")?;
        let any = moves.pop().is_some_and(|flags| flags > 0.0);
        let mut moves = moves.as_slice();
        for (var, before) in &self.0 {
            let values = wide(before)?;
            let (own, rest) = moves.split_at(values.len());
            let moved: Vec<f64> = values.iter().zip(own).map(|(before, change)| before + change).collect();
            var.set(&Tensor::from_vec(moved, values.len(), var.device())?.to_dtype(var.dtype())?)?;
            moves = rest;
        }
        Ok(any)
    }
}
