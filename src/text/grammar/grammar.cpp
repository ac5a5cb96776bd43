#include "text/grammar/grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <span>

#include "base/check.h"

namespace fathom {

Grammar::Grammar() { add({}); }

int32_t Grammar::add(Node node) {
  if (nodes_.size() >= kMaxNodes) {
    throw GrammarRefusal(fmt::format(
        "the form is too large: its grammar has more than {} states (shorten enums, patterns and "
        "repetition counts)",
        kMaxNodes));
  }
  nodes_.push_back(node);
  return size() - 1;
}

int32_t Grammar::bytes(const std::vector<Edge>& edges) {
  const auto first = static_cast<int32_t>(edges_.size());
  edges_.insert(edges_.end(), edges.begin(), edges.end());
  return add({Kind::bytes, first, static_cast<int32_t>(edges_.size()), 0, 0});
}

int32_t Grammar::literal(std::string_view text, int32_t next) {
  for (size_t i = text.size(); i > 0; --i) next = byte(text[i - 1], next);
  return next;
}

namespace {

// Makes a node for the rest, from `depth` on, of texts whose first `depth` bytes are equal.
int32_t literal_tree(Grammar& g, std::span<const std::string> sorted, size_t depth, int32_t next) {
  if (sorted.size() == 1) return g.literal(std::string_view(sorted[0]).substr(depth), next);
  const bool ends_here = sorted[0].size() == depth;
  std::vector<Grammar::Edge> edges;
  for (size_t i = ends_here ? 1 : 0; i < sorted.size();) {
    size_t end = i + 1;
    while (end < sorted.size() && sorted[end][depth] == sorted[i][depth]) ++end;
    // The common part of a group becomes a chain, so the recursion depth is the number of
    // branchings.
    size_t common = depth + 1;
    const std::string& low = sorted[i];
    const std::string& high = sorted[end - 1];
    while (common < std::min(low.size(), high.size()) && low[common] == high[common]) ++common;
    const int32_t tree = literal_tree(g, sorted.subspan(i, end - i), common, next);
    edges.push_back(Grammar::edge(
        low[depth], g.literal(std::string_view(low).substr(depth + 1, common - depth - 1), tree)));
    i = end;
  }
  if (edges.empty()) return next;
  const int32_t node = g.bytes(edges);
  return ends_here ? g.split({node, next}) : node;
}

}  // namespace

int32_t Grammar::any_of(std::vector<std::string> texts, int32_t next) {
  FATHOM_CHECK(!texts.empty(), "a choice of nothing");
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return literal_tree(*this, texts, 0, next);
}

int32_t Grammar::split(const std::vector<int32_t>& targets) {
  if (targets.size() == 1) return targets[0];
  const int32_t node = reserve();
  fill(node, targets);
  return node;
}

int32_t Grammar::call(int32_t rule, int32_t next) { return add({Kind::call, rule, next, 0, 0}); }

int32_t Grammar::repeat(int32_t rule, uint32_t min, uint32_t max, int32_t next) {
  FATHOM_CHECK(min <= max, "{} to {} times", min, max);
  return add({Kind::repeat, rule, next, min, max});
}

int32_t Grammar::marker(int32_t token, int32_t next) {
  return add({Kind::marker, token, next, 0, 0});
}

int32_t Grammar::reserve() { return add({Kind::split, 0, 0, 0, 0}); }

void Grammar::fill(int32_t reserved, const std::vector<int32_t>& targets) {
  nodes_[reserved].a = static_cast<int32_t>(targets_.size());
  targets_.insert(targets_.end(), targets.begin(), targets.end());
  nodes_[reserved].b = static_cast<int32_t>(targets_.size());
}

int32_t Grammar::add_rule(std::string name) {
  rules_.push_back({std::move(name), -1});
  return static_cast<int32_t>(rules_.size()) - 1;
}

void Grammar::take_back(const Mark& mark) {
  nodes_.resize(mark.nodes);
  edges_.resize(mark.edges);
  targets_.resize(mark.targets);
  rules_.resize(mark.rules);
}

void Grammar::seal(int32_t root) {
  find_needs();
  if (need_[start(root)] == kNever) {
    throw GrammarRefusal(
        fmt::format("{}: no finite answer can follow it (a required part contains itself, or has "
                    "no possible value)",
                    rules_[root].name));
  }
  check_left_recursion();
}

int Grammar::need_through(const Node& n) const {
  int least = kNever;
  switch (n.kind) {
    case Kind::end:
      return 0;
    case Kind::bytes:
      for (const Edge* e = edges_begin(n); e != edges_end(n); ++e)
        least = std::min(least, need_[e->target]);
      return least;
    case Kind::split:
      for (const int32_t* t = targets_begin(n); t != targets_end(n); ++t)
        least = std::min(least, need_[*t]);
      return least;
    case Kind::marker:
      return need_[n.b];
    case Kind::call:
    case Kind::repeat: {
      if (n.kind == Kind::repeat && n.min == 0) return need_[n.b];
      const int inside = need_[start(n.a)];
      return inside == kNever ? kNever : std::max(need_[n.b], inside + 1);
    }
  }
  return kNever;
}

// Visits the nodes that a property of the node depends on.
template <class Visit>
void Grammar::visit_followers(const Node& n, Visit visit) const {
  if (n.kind == Kind::bytes)
    for (const Edge* e = edges_begin(n); e != edges_end(n); ++e) visit(e->target);
  if (n.kind == Kind::split)
    for (const int32_t* t = targets_begin(n); t != targets_end(n); ++t) visit(*t);
  if (n.kind == Kind::call || n.kind == Kind::repeat) visit(start(n.a));
  if (n.kind == Kind::call || n.kind == Kind::repeat || n.kind == Kind::marker) visit(n.b);
}

// Computes a least fixed point: calls `update` for every node. When it returns true (something
// changed), the nodes that depend on this one are updated again.
template <class Update>
void Grammar::settle(Update update) const {
  std::vector<int32_t> begin(nodes_.size() + 2, 0);  // of the nodes in front of each, in `before`
  for (const Node& n : nodes_) visit_followers(n, [&](int32_t f) { ++begin[f + 2]; });
  for (size_t i = 2; i < begin.size(); ++i) begin[i] += begin[i - 1];
  std::vector<int32_t> before(begin.back());
  for (int32_t i = 0; i < size(); ++i)
    visit_followers(nodes_[i], [&](int32_t f) { before[begin[f + 1]++] = i; });

  // Most nodes were made after what follows them, so that one pass settles most.
  std::deque<int32_t> open;
  for (int32_t i = 0; i < size(); ++i) open.push_back(i);
  std::vector<bool> is_open(nodes_.size(), true);
  while (!open.empty()) {
    const int32_t at = open.front();
    open.pop_front();
    is_open[at] = false;
    if (!update(at)) continue;
    for (int32_t i = begin[at]; i < begin[at + 1]; ++i) {
      if (is_open[before[i]]) continue;
      is_open[before[i]] = true;
      open.push_back(before[i]);
    }
  }
}

void Grammar::find_needs() {
  need_.assign(nodes_.size(), kNever);
  settle([&](int32_t i) {
    const int need = need_through(nodes_[i]);
    if (need >= need_[i]) return false;
    need_[i] = need;
    return true;
  });
  max_need_ = 0;
  for (const int n : need_) max_need_ = n == kNever ? max_need_ : std::max(max_need_, n);
}

// Nodes from which the end of their rule can be reached without a byte or a marker.
std::vector<bool> Grammar::nullable_nodes() const {
  std::vector<bool> nullable(nodes_.size(), false);
  const auto is_nullable = [&](const Node& n) -> bool {
    switch (n.kind) {
      case Kind::end:
        return true;
      case Kind::split:
        return std::any_of(targets_begin(n), targets_end(n),
                           [&](int32_t t) { return nullable[t]; });
      case Kind::call:
        return nullable[start(n.a)] && nullable[n.b];
      case Kind::repeat:
        return n.min == 0 && nullable[n.b];
      case Kind::bytes:
      case Kind::marker:
        return false;
    }
    return false;
  };
  settle([&](int32_t i) {
    if (nullable[i] || !is_nullable(nodes_[i])) return false;
    nullable[i] = true;
    return true;
  });
  return nullable;
}

// A rule that calls itself before any byte would open calls without end while nothing is read.
void Grammar::check_left_recursion() const {
  const std::vector<bool> nullable = nullable_nodes();
  // Per rule, the rules it may call first.
  std::vector<std::vector<int32_t>> first_calls(rules_.size());
  std::vector<int32_t> seen_for(nodes_.size(), -1);
  for (size_t r = 0; r < rules_.size(); ++r) {
    std::vector<int32_t> open = {rules_[r].start};
    while (!open.empty()) {
      const int32_t at = open.back();
      open.pop_back();
      if (seen_for[at] == static_cast<int32_t>(r)) continue;
      seen_for[at] = static_cast<int32_t>(r);
      const Node& n = nodes_[at];
      if (n.kind == Kind::split) open.insert(open.end(), targets_begin(n), targets_end(n));
      if (n.kind == Kind::call || n.kind == Kind::repeat) {
        first_calls[r].push_back(n.a);
        FATHOM_CHECK(n.kind == Kind::call || !nullable[start(n.a)], "{} repeats nothing",
                     rules_[r].name);
        if (n.kind == Kind::call ? nullable[start(n.a)] : n.min == 0) open.push_back(n.b);
      }
    }
  }
  // Rules that call no remaining rule are removed, one after the other. Those that are left lie on
  // a cycle or lead to one.
  std::vector<int> left(rules_.size(), 0);
  std::vector<std::vector<int32_t>> callers(rules_.size());
  std::vector<int32_t> done;
  for (size_t r = 0; r < rules_.size(); ++r) {
    left[r] = static_cast<int>(first_calls[r].size());
    for (const int32_t called : first_calls[r]) callers[called].push_back(static_cast<int32_t>(r));
    if (left[r] == 0) done.push_back(static_cast<int32_t>(r));
  }
  for (size_t i = 0; i < done.size(); ++i) {
    for (const int32_t caller : callers[done[i]]) {
      if (--left[caller] == 0) done.push_back(caller);
    }
  }
  const auto stuck = std::find_if(left.begin(), left.end(), [](int n) { return n > 0; });
  if (stuck == left.end()) return;
  // Each remaining rule calls another remaining one, so after as many steps as there are rules `at`
  // lies on a cycle.
  auto at = static_cast<int32_t>(stuck - left.begin());
  for (size_t i = 0; i < rules_.size(); ++i) {
    at = *std::find_if(first_calls[at].begin(), first_calls[at].end(),
                       [&](int32_t called) { return left[called] > 0; });
  }
  throw GrammarRefusal(
      fmt::format("{}: it refers to itself with nothing in between", rules_[at].name));
}

}  // namespace fathom
