// Keeps one answer to its form while the model computes: masks are made on the threads of the
// ConstraintFactory, not on the engine's.
#pragma once

#include <memory>

#include "runtime/request.h"
#include "text/grammar/constraint.h"

namespace fathom::server {

// The constraint of one answer; every choice of a request gets its own. Null for a form that
// restricts nothing. The first mask is begun at once, while the prompt is still being read.
// `constraints` must outlive what is returned; that may be dropped at any time, from any thread.
std::shared_ptr<TokenConstraint> make_answer_constraint(ConstraintFactory& constraints,
                                                        std::shared_ptr<const CompiledForm> form);

}  // namespace fathom::server
