// The scheduler: decides what the next step computes. It is a pure function: the same state gives
// the same plan. It reads no clock and uses no device and no page; the engine carries out the plan.
//
// Sequences are served in order of rank: priority, then arrival. The rules, in order:
//   1. Decodes come first: every running sequence that lacks one token gets it. A reader notices
//      a missing token sooner than a longer wait for the first one.
//   2. The prompts that are being computed share what is left of the step's tokens. Each gets the
//      same number, or what it still lacks if that is less. Shares of a page or more are rounded
//      down to whole pages. So a short prompt is done in a step or two while a long one goes on.
//   3. Waiting sequences are admitted in order of rank, none overtaking another. Each needs a place
//      and a token in the step, and pages for all of its known tokens. A waiting sequence of
//      strictly better priority preempts running ones, the last in rank first, if that makes room
//      for it. Pages that texts share count once: a page becomes free when its last holder is
//      preempted, and costs the admitted sequence nothing while a remaining one holds it.
//   4. When pages run out, the running sequence of the last rank is preempted. It gives up all of
//      its pages, waits again and is computed again later. The first in rank is never preempted,
//      so it finishes.
//   5. Drafts get what is left then: tokens of the step, and pages that no known token needs. So
//      they never delay or preempt anything.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom {

struct SeqState {
  int64_t known = 0;         // tokens of the prompt and generated ones
  int64_t cached = 0;        // of these, the ones with rows in the cache
  int64_t pages = 0;         // pages held; for a waiting one: pages of others that it can share
  int priority = 0;          // lower numbers are served first
  bool prompt_rows = false;  // prompt tokens take a logit row, not only the last one:
  int64_t rows_from = 0;     // all from this position on
  int drafts = 0;            // drafts after the last known token; they get spare tokens of the step
  // Which pages these are, in order. Texts share pages from the front only: two lists agree up to
  // some place and differ everywhere after it. May be empty if no page is shared.
  std::span<const int32_t> page_ids = {};
};

struct Limits {
  int step_tokens = 0;     // tokens of one step
  int sequences = 0;       // sequences at once
  int64_t free_pages = 0;  // pages without holders
  int prompt_rows = 0;     // logit rows of one step, not counting one per sequence
};

// Tokens [begin, end) of a sequence; those after its known tokens are its first drafts. `seq` is an
// index into the running sequences followed by the waiting ones: running.size() is the first
// waiting sequence, which this plan admits.
struct Slice {
  int seq;
  int64_t begin, end;
  bool operator==(const Slice&) const = default;
};

struct Plan {
  std::vector<Slice> slices;   // decodes, then chunks of prompts; a sequence at most once
  std::vector<int> preempted;  // indices of running, the last rank first

  // How many waiting sequences are admitted: always the first ones.
  int admitted(size_t running) const {
    int n = 0;
    for (const Slice& s : slices) n += s.seq >= static_cast<int>(running);
    return n;
  }
};

// `running` and `waiting` are each in order of rank. A running sequence that lacks nothing (known
// == cached) keeps its place and its pages. The caller makes sure that the longest sequence alone
// fits into all pages. Then every plan makes progress, possibly by preempting, as long as no
// sequence outside `running` holds pages. A plan that preempts may be carried out only in that
// case.
Plan plan_step(std::span<const SeqState> running, std::span<const SeqState> waiting,
               const Limits& limits);

}  // namespace fathom
