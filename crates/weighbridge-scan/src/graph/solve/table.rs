//! What it takes of places at which rows of a table are looked up.

use std::collections::BTreeMap;

use super::{Goals, Solver, Want, Wants, near};
use crate::graph::flat::Node;
use crate::graph::interp::axis;
use crate::graph::interp::value::Tensor;

/// At how many places another row is tried in one pass.
const MOST_PLACES: usize = 64;

/// A table in which rows are looked up: how many there are, and how far their elements lie apart.
struct Rows<'r> {
    table: &'r Tensor,
    index: &'r Tensor,
    extent: usize,
    run: usize,
}

/// A place of which more is wanted than any row has: elements before and within a row.
type Unmet<'w> = (usize, Vec<(usize, usize, &'w Want)>);

impl<'g> Solver<'_, 'g> {
    /// A table looked up at a place that depends on inputs: which row would do.
    pub(super) fn looked_up(
        &mut self,
        at: usize,
        node: &Node<'g>,
        wants: &Wants,
        goals: &mut Goals,
    ) {
        let (Some(table), Some((id, index))) = (self.value(node, 0), self.operand(node, 1)) else {
            return;
        };
        let c = axis(node.attributes.int_or("axis", 0), table.dims.len());
        let Ok(axis) = c else { return };
        let product = |d: &[usize]| d.iter().fold(1usize, |n, &d| n.saturating_mul(d)).max(1);
        let extent = table.dims.get(axis).copied().unwrap_or(1);
        let run = product(table.dims.get(axis + 1..).unwrap_or_default());
        let places = index.len().max(1);
        let mut by_place: BTreeMap<usize, Vec<(usize, usize, &Want)>> = BTreeMap::new();
        for (o, w) in wants {
            let (t, rest) = (o % run, o / run);
            let (j, h) = (rest % places, rest / places);
            by_place.entry(j).or_default().push((h, t, w));
        }
        let mut unmet = Vec::new();
        for (j, all) in by_place {
            if self.meter.spend(extent).is_err() {
                return;
            }
            let fits = |i: &usize| {
                let at = |h: usize, t: usize| (h * extent + i) * run + t;
                all.iter().all(|(h, t, w)| w.met(&table, at(*h, *t)))
            };
            let rows: Vec<usize> = (0..extent).filter(fits).take(64).collect();
            match rows.get(self.choice(at, rows.len())) {
                Some(&row) => goals.add(id, j, Want::exactly(row as f64)),
                None => unmet.push((j, all)),
            }
        }
        let all = Rows {
            table: &table,
            index: &index,
            extent,
            run,
        };
        if let Some((j, row)) = self.nearest(at, &all, &unmet) {
            goals.add(id, j, Want::exactly(row as f64));
        }
        // A table that depends on inputs itself is filled where it is looked up.
        if self.moves(node.inputs.first().copied().flatten()).is_some() {
            self.moved(at, node, 0, wants, goals);
        }
    }

    /// The row that comes nearest to what no row is, at the one place where that helps most. What
    /// is wanted of the places together is wanted of that place alone, as sums of rows ask for.
    fn nearest(
        &mut self,
        at: usize,
        rows: &Rows<'_>,
        unmet: &[Unmet<'_>],
    ) -> Option<(usize, usize)> {
        let offset = |h: usize, t: usize, i: usize| (h * rows.extent + i) * rows.run + t;
        let mut short: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        let mut sums: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for (j, all) in unmet {
            let now = rows.index.at(*j)? as usize;
            for &(h, t, w) in all {
                let (x, (low, high)) = (rows.table.at(offset(h, t, now))?, w.range()?);
                *short.entry((h, t)).or_default() += near(low, high, x) - x;
                *sums.entry((h, t)).or_default() += x;
            }
        }
        if self.choice(at ^ 0x1f, 2) == 0 {
            // Nothing but what is wanted, as for sums that are compared by their direction.
            let along: f64 = short
                .iter()
                .map(|(k, d)| d * sums.get(k).unwrap_or(&0.0))
                .sum();
            let size: f64 = short.values().map(|d| d * d).sum();
            let part = (along / size).max(0.0) + 1.0;
            for (k, d) in &mut short {
                *d = *d * part - sums.get(k).unwrap_or(&0.0);
            }
        }
        let mut best: Option<(f64, usize, usize)> = None;
        let start = self.turned(at, unmet.len());
        for (j, all) in
            (0..unmet.len().min(MOST_PLACES)).filter_map(|k| unmet.get((start + k) % unmet.len()))
        {
            let cost = rows.extent.saturating_mul(all.len());
            if self.meter.spend(cost).is_err() {
                return None;
            }
            let now = rows.index.at(*j)? as usize;
            let goal = |&(h, t, _): &(usize, usize, &Want)| {
                let x = rows.table.at(offset(h, t, now))?;
                Some((h, t, x + short.get(&(h, t))?))
            };
            let goal: Vec<(usize, usize, f64)> = all.iter().map(goal).collect::<Option<_>>()?;
            let miss = |i: usize| -> Option<f64> {
                let one = |&(h, t, g): &(usize, usize, f64)| {
                    Some((rows.table.at(offset(h, t, i))? - g).powi(2))
                };
                goal.iter().map(one).sum()
            };
            let own = miss(now)?;
            for i in 0..rows.extent {
                let gain = own - miss(i)?;
                if gain > best.map_or(0.0, |b| b.0) {
                    best = Some((gain, *j, i));
                }
            }
        }
        best.map(|(_, j, i)| (j, i))
    }
}
