// What the next step computes, as a pure function: same state, same plan. No clock, no device, no
// page is touched here; the engine carries the plan out.
//
// Who is served first is a matter of rank: priority, then arrival. The rules, in order:
//   1. decodes first: every running sequence that lacks one token gets it (a waiting reader feels
//      a missing token sooner than a longer wait for the first one);
//   2. then the prompts in work share what is left of the step's tokens: each gets the same, less
//      only where it lacks less, in whole pages where the share is as much as a page. So a short
//      prompt is through in a step or two while a long one goes on;
//   3. waiting sequences come in by rank, none overtaking, while there are places, a token for each
//      and pages for everything that is known of them. One of strictly better priority than
//      running ones puts these out, from the last rank up, when that makes room for it. Pages that
//      texts share are counted once: one comes free when the last of its holders is put out, and
//      costs the newcomer nothing while someone who stays holds it;
//   4. when pages run out, the running sequence of the last rank gives up all of its pages and
//      waits again, to be computed anew later. The first in rank never does, so it finishes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom {

struct SeqState {
  int64_t known = 0;         // tokens of the prompt and generated so far
  int64_t cached = 0;        // of these, how many are in the cache; less than known in all but name
  int64_t pages = 0;         // pages held; of a waiting one, those that others hold for it to share
  int priority = 0;          // lower numbers are served first
  bool prompt_rows = false;  // tokens of it take a logit row, not its last one alone:
  int64_t rows_from = 0;     // all from this position on
  // Which pages these are, in order. Texts share pages from the front alone: two lists agree up to
  // some place and nowhere behind it. May be left empty where no page is shared.
  std::span<const int32_t> page_ids = {};
};

struct Limits {
  int step_tokens = 0;     // tokens of one step
  int max_running = 0;     // sequences at once
  int64_t free_pages = 0;  // pages nobody holds
  int prompt_rows = 0;     // logit rows of one step beside the last one of each sequence
};

// Tokens [begin, end) of a sequence. `seq` counts through running and then waiting: running.size()
// is the first waiting sequence, which this plan admits.
struct Slice {
  int seq;
  int64_t begin, end;
  bool operator==(const Slice&) const = default;
};

struct Plan {
  std::vector<Slice> slices;   // decodes, then chunks of prompts; a sequence at most once
  std::vector<int> preempted;  // indices of running, the last rank first

  // How many waiting sequences come in: always the first ones.
  int admitted(size_t running) const {
    int n = 0;
    for (const Slice& s : slices) n += s.seq >= static_cast<int>(running);
    return n;
  }
};

// `running` and `waiting` are in order of rank, each for itself. A running sequence may lack
// nothing (known == cached): it keeps its place and its pages. Whoever calls must see to it that
// the greatest sequence alone fits into all pages: where nobody else holds any, every plan then
// makes progress, if only by putting somebody out. A plan that puts somebody out may be carried out
// only when nobody but `running` holds pages.
Plan plan_step(std::span<const SeqState> running, std::span<const SeqState> waiting,
               const Limits& limits);

}  // namespace fathom
