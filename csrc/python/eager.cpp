// Chosen by measuring a call at 64x64, where the call is all the cost: see docs/performance.md.
#include "python/eager.h"

#include <pybind11/gil_safe_call_once.h>

#include <new>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "anchors/op.h"

namespace anchor_ext {
namespace {

namespace py = pybind11;

constexpr std::int64_t kQuickAnchors = 16384;  // that a thread makes in the time that others take to get the GIL: 3 us

struct EagerGenerate {
  std::shared_ptr<const Spec> spec;
  py::dict dtypes, devices;
  // Over the last image: most calls are for the same shape as the one before, and a second thread then finds the
  // pyramid in its own caches. Shared, as another Python thread may replace it while this one writes.
  ImageShape image_shape{0, 0};
  std::shared_ptr<const Pyramid> pyramid;
};

// A tuple of two ints, as nearly every caller has it.
template <typename Shape>
bool read_shape(PyObject* shape, Shape& result) {
  if (!PyTuple_Check(shape) || PyTuple_GET_SIZE(shape) != 2) return false;
  std::int64_t sides[2];
  for (int i = 0; i < 2; ++i) {
    int overflow = 0;
    if (!PyLong_CheckExact(PyTuple_GET_ITEM(shape, i))) return false;
    sides[i] = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(shape, i), &overflow);
    if (overflow != 0) return false;
  }
  result = Shape{sides[0], sides[1]};
  return true;
}

bool read_level_shapes(PyObject* shapes, std::vector<LevelShape>& result) {
  if (!PyList_Check(shapes) && !PyTuple_Check(shapes)) return false;
  result.resize(static_cast<std::size_t>(PySequence_Fast_GET_SIZE(shapes)));
  for (std::size_t i = 0; i < result.size(); ++i)
    if (!read_shape(PySequence_Fast_GET_ITEM(shapes, static_cast<Py_ssize_t>(i)), result[i])) return false;
  return !result.empty();
}

// Null where a shape is not in its usual form.
std::shared_ptr<const Pyramid> over(EagerGenerate& self, PyObject* level_shapes, PyObject* image_shape,
                                    PyObject* clip) {
  Request request;
  if (image_shape != Py_None && !read_shape(image_shape, request.image_shape.emplace())) return nullptr;
  if (clip != Py_None && !read_shape(clip, request.clip.emplace())) return nullptr;
  if (level_shapes != Py_None) {
    if (!read_level_shapes(level_shapes, request.level_shapes)) return nullptr;
    return std::shared_ptr<const Pyramid>(new Pyramid(self.spec->over(request)));
  }
  if (!request.image_shape || request.clip || self.spec->parts().pyramid_levels.empty()) return nullptr;
  const auto [height, width] = *request.image_shape;
  if (!self.pyramid || self.image_shape.height != height || self.image_shape.width != width) {
    self.pyramid.reset(new Pyramid(self.spec->over(request)));
    self.image_shape = {height, width};
  }
  return self.pyramid;
}

PyObject* find(const py::dict& dict, PyObject* key) {
  PyObject* const value = PyDict_GetItemWithError(dict.ptr(), key);
  if (value == nullptr) PyErr_Clear();  // no key at all
  return value;
}

// torch.empty, and where it put the tensor.
std::pair<py::object, void*> empty(const std::vector<std::int64_t>& sizes, PyObject* dtype, PyObject* device) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> storage;
  const py::object& torch_empty =
      storage.call_once_and_store_result([] { return py::object(py::module_::import("torch").attr("empty")); })
          .get_stored();
  static PyObject* const keywords = py::make_tuple("dtype", "device").release().ptr();
  py::object sides[3];  // one by one: torch takes longer to read a tuple of them
  PyObject* arguments[5];
  for (std::size_t i = 0; i < sizes.size(); ++i) arguments[i] = (sides[i] = py::int_(sizes[i])).ptr();
  arguments[sizes.size()] = dtype, arguments[sizes.size() + 1] = device;
  auto out =
      py::reinterpret_steal<py::object>(PyObject_Vectorcall(torch_empty.ptr(), arguments, sizes.size(), keywords));
  if (!out) throw py::error_already_set();
  static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
  const auto address = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(out.ptr(), data_ptr));
  if (!address) throw py::error_already_set();
  void* const memory = PyLong_AsVoidPtr(address.ptr());
  if (memory == nullptr) throw std::runtime_error("anchor_ext: torch.empty gave a tensor without memory");
  return {std::move(out), memory};
}

py::object call(EagerGenerate& self, PyObject* const* arguments) {
  const auto device = py::reinterpret_borrow<py::object>(find(self.devices, arguments[5]));  // outlives the dict's
  PyObject* const dtype_number = find(self.dtypes, arguments[4]);
  if (!device || dtype_number == nullptr) return py::none();
  const std::shared_ptr<const Pyramid> kept = over(self, arguments[0], arguments[1], arguments[2]);
  if (!kept || kept->num_anchors == 0) return py::none();  // memory of no size lies nowhere
  const auto dtype = static_cast<Dtype>(PyLong_AsLong(dtype_number));
  std::vector<std::int64_t> sizes{kept->num_anchors, kept->layout.components};
  if (arguments[3] == Py_True) sizes.insert(sizes.begin(), 1);
  const bool is_cuda = PyTuple_GET_ITEM(device.ptr(), 1) == Py_True;

  const NewTensor made = is_cuda ? NewTensor{} : new_tensor(sizes, dtype);
  auto out = py::reinterpret_steal<py::object>(static_cast<PyObject*>(made.object));
  void* memory = made.memory;
  if (!out && PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (!out) std::tie(out, memory) = empty(sizes, arguments[4], PyTuple_GET_ITEM(device.ptr(), 0));
  const Place place =
      is_cuda ? Place{Device::cuda, out.attr("get_device")().cast<std::int32_t>()} : Place{Device::cpu, -1};
  std::optional<py::gil_scoped_release> release;
  if (is_cuda || kept->num_anchors > kQuickAnchors) release.emplace();
  generate(*kept, dtype, memory, place);
  release.reset();
  return out;
}

// As pybind11 would raise what is thrown.
PyObject* call_generate(PyObject* self, PyObject* const* arguments, Py_ssize_t) {
  try {
    return call(*static_cast<EagerGenerate*>(PyCapsule_GetPointer(self, nullptr)), arguments).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

}  // namespace

py::object eager_generate(std::shared_ptr<const Spec> spec, py::dict dtypes, py::dict devices) {
  static PyMethodDef method{"eager_generate",
                            reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call_generate)), METH_FASTCALL,
                            nullptr};
  auto* const state = new EagerGenerate{std::move(spec), std::move(dtypes), std::move(devices), {}, nullptr};
  const py::capsule self(state, [](void* pointer) { delete static_cast<EagerGenerate*>(pointer); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, self.ptr()));
}

}  // namespace anchor_ext
