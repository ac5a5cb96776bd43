// Restricts an answer to its form (JSON, a schema, tool calls). Token masks are computed on the
// threads of the ConstraintFactory while the model computes, not on the engine's thread.
#pragma once

#include <memory>

#include "runtime/request.h"
#include "text/grammar/constraint.h"

namespace fathom::server {

// Returns the constraint of one answer; every choice of a request needs its own. Null for a form
// that restricts nothing. Starts to compute the first mask at once, while the prompt is prefilled.
// `constraints` must outlive the result, which may be dropped at any time, on any thread.
std::shared_ptr<TokenConstraint> make_answer_constraint(ConstraintFactory& constraints,
                                                        std::shared_ptr<const CompiledForm> form);

}  // namespace fathom::server
