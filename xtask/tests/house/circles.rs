//! Circles in a directed graph.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The strongly connected components with at least two nodes, each with its nodes and a shortest circle among
/// them.
pub fn circles(arrows: &BTreeSet<(usize, usize)>) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(from, to) in arrows {
        next.entry(from).or_default().push(to);
        next.entry(to).or_default();
    }
    let reached: BTreeMap<usize, BTreeSet<usize>> =
        next.keys().map(|&node| (node, reached_from(&next, node))).collect();
    let mut found = Vec::new();
    let mut done: BTreeSet<usize> = BTreeSet::new();
    for &node in next.keys() {
        if done.contains(&node) || !reached[&node].contains(&node) {
            continue;
        }
        let set: Vec<usize> =
            reached[&node].iter().copied().filter(|other| reached[other].contains(&node)).collect();
        done.extend(&set);
        let around = set.iter().filter_map(|&start| way_around(&next, start)).min_by_key(Vec::len);
        found.push((set, around.unwrap_or_default()));
    }
    found
}

/// The nodes reachable from `start`.
fn reached_from(next: &BTreeMap<usize, Vec<usize>>, start: usize) -> BTreeSet<usize> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(node) = open.pop() {
        open.extend(next[&node].iter().filter(|&&node| reached.insert(node)));
    }
    reached
}

/// A shortest circle through `start`, which comes first.
fn way_around(next: &BTreeMap<usize, Vec<usize>>, start: usize) -> Option<Vec<usize>> {
    let mut before = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(node) = open.pop_front() {
        for &to in &next[&node] {
            if to == start {
                let mut way = vec![node];
                while way[way.len() - 1] != start {
                    way.push(before[&way[way.len() - 1]]);
                }
                way.reverse();
                return Some(way);
            }
            if let Entry::Vacant(unseen) = before.entry(to) {
                unseen.insert(node);
                open.push_back(to);
            }
        }
    }
    None
}
