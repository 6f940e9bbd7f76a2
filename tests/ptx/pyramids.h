// Pyramids of boxes, boxes and coders of all kinds, for the cases of what has to do with boxes.
#pragma once

#include "cases.h"
#include "core/box.h"
#include "core/spec.h"

namespace cases {

inline const char* const kCoders[] = {
    "coder/1;max_log_ratio=4.135166556742356",
    "coder/1;weights=10,10,5,5;max_log_ratio=0.5",
    "coder/1;means=0.1,0,0.2,0;stds=0.1,0.1,0.2,0.2;max_log_ratio=1;limits_small=yes;centres=ends;max_shift=7",
    "coder/1;centres=ends_decoded;order=yxhw;addend=1e-07;clip=no",
    "coder/1;stds=0.1,0.1,0.2,0.2;clip=outer_ends;min_side=1",
};

inline anchor_ext::Pyramid some_pyramid() {
  anchor_ext::SpecParts arguments;
  anchor_ext::Request request;
  arguments.layout = integer(0, 1) == 0 ? "xyxy" : "yxyx";
  arguments.arithmetic = integer(0, 1) == 0 ? "float64" : integer(0, 1) == 0 ? "float32" : "arange";
  for (std::int64_t level = integer(1, 3); level > 0; --level) {
    arguments.cell_anchors.emplace_back();
    for (std::int64_t i = integer(1, 9); i > 0; --i) {
      const double x = uniform(1, 60), y = uniform(1, 60);
      for (const double number : {-x, -y, x, y}) arguments.cell_anchors.back().push_back(number);
    }
    arguments.strides.push_back({uniform(3, 20), integer(0, 1) ? 8 : uniform(3, 20)});
    request.level_shapes.push_back({integer(1, 7), integer(1, 20)});
  }
  return anchor_ext::Spec(arguments).over(request);
}

template <typename C>
anchor_ext::Box<C> some_box() {
  const C x = static_cast<C>(uniform(-50, 300)), y = static_cast<C>(uniform(-50, 300));
  const C wide = static_cast<C>(integer(0, 9) == 0 ? uniform(-20, 1) : uniform(0, 200));
  return {x, y, x + wide, y + static_cast<C>(uniform(0.1, 200))};
}

}  // namespace cases
