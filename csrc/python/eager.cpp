#include "python/eager.h"

#include <ATen/dlpack.h>
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>

namespace anchor_ext {
namespace {

// A tuple of two ints, as nearly every caller has it.
bool read_shape(PyObject* shape, std::int64_t (&sides)[2]) {
  if (!PyTuple_Check(shape) || PyTuple_GET_SIZE(shape) != 2) return false;
  for (int i = 0; i < 2; ++i) {
    PyObject* side = PyTuple_GET_ITEM(shape, i);
    int overflow = 0;
    if (!PyLong_CheckExact(side)) return false;
    sides[i] = PyLong_AsLongLongAndOverflow(side, &overflow);
    if (overflow != 0) return false;
  }
  return true;
}

std::vector<LevelShape> to_level_shapes(py::handle shapes) {
  std::vector<LevelShape> level_shapes;
  const auto read = [&level_shapes](py::handle list) {
    if (!PyList_Check(list.ptr()) && !PyTuple_Check(list.ptr())) return false;
    level_shapes.clear();
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list.ptr()); ++i) {
      std::int64_t sides[2] = {0, 0};
      if (!read_shape(PySequence_Fast_GET_ITEM(list.ptr(), i), sides)) return false;
      level_shapes.push_back({sides[0], sides[1]});
    }
    return true;
  };
  if (!read(shapes)) {
    const py::object& parse = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("anchor_ext._arguments").attr("level_shapes"));
    read(parse(shapes));
  }
  return level_shapes;
}

// Of torch before 2.14, in whose stable interface this is missing: a tensor's Python object, PyObject*
// THPVariable_Wrap(const at::TensorBase&), which is the same in 2.11, 2.12 and 2.13, and in later ones is not asked
// for. A handle is a pointer to a tensor. It takes 0.5 us less than a call of torch.empty.
ToPython to_python() {
  static const auto found = [] {
    void* const library = dlopen("libtorch_python.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<ToPython>(library ? dlsym(library, "_Z16THPVariable_WrapRKN2at10TensorBaseE") : nullptr);
  }();
  return found;
}

}  // namespace

// Everything else is read in Python, which says what is wrong.
ImageShape to_image_shape(py::handle shape, const char* name) {
  std::int64_t sides[2] = {0, 0};
  if (!read_shape(shape.ptr(), sides)) {
    const py::object& parse = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("anchor_ext._arguments").attr("image_shape"));
    read_shape(parse(shape, name).ptr(), sides);
  }
  return {sides[0], sides[1]};
}

Request to_request(py::handle level_shapes, py::handle image_shape, py::handle clip) {
  Request request;
  if (!level_shapes.is_none()) request.level_shapes = to_level_shapes(level_shapes);
  if (!image_shape.is_none() || level_shapes.is_none())
    request.image_shape = to_image_shape(image_shape, "image_shape");
  if (!clip.is_none()) request.clip = to_image_shape(clip, "clip");
  return request;
}

Pyramid over(const Config& config, py::handle level_shapes, py::handle image_shape, py::handle clip) {
  return config.over(to_request(level_shapes, image_shape, clip));
}

py::object steal(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

Empty make_empty(Sizes sizes, py::handle torch_dtype, std::optional<Dtype> dtype, py::handle torch_device,
                 Device device) {
  if (device == Device::cpu) {
    const NewTensor made = new_tensor(sizes, dtype, to_python());
    if (made.object != nullptr) return {steal(static_cast<PyObject*>(made.object)), made.memory, {device, -1}};
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  }
  const py::object& empty = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch").attr("empty"));
  const py::object& keywords = ANCHOR_EXT_PYTHON_ONCE(py::make_tuple("dtype", "device"));
  const py::object& data_ptr = ANCHOR_EXT_PYTHON_ONCE(py::str("data_ptr"));
  const py::object& get_device = ANCHOR_EXT_PYTHON_ONCE(py::str("get_device"));

  // Sizes one by one: torch takes 0.3 us longer to read a tuple of them.
  std::vector<py::object> integers;
  for (std::size_t i = 0; i < sizes.count; ++i) integers.push_back(py::int_(sizes.begin[i]));
  std::vector<PyObject*> arguments;
  for (const py::object& integer : integers) arguments.push_back(integer.ptr());
  arguments.insert(arguments.end(), {torch_dtype.ptr(), torch_device.ptr()});
  py::object out = steal(PyObject_Vectorcall(empty.ptr(), arguments.data(), sizes.count, keywords.ptr()));
  void* const memory = PyLong_AsVoidPtr(steal(PyObject_CallMethodNoArgs(out.ptr(), data_ptr.ptr())).ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  const bool is_empty = std::count(sizes.begin, sizes.begin + sizes.count, 0) > 0;
  if (memory == nullptr && !is_empty) throw std::runtime_error("anchor_ext: torch.empty gave a tensor without memory");
  std::int32_t device_index = -1;
  if (device == Device::cuda)
    device_index = steal(PyObject_CallMethodNoArgs(out.ptr(), get_device.ptr())).cast<std::int32_t>();
  return {std::move(out), memory, {device, device_index}};
}

namespace {

// What a thread's torch does with operators beside running them, of which anchors must then be one: modes, transforms,
// a trace. (Compilers and exporters have a mode, or see the Python code and never come here.)
bool is_plain() {
  const py::object& modes = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch._C").attr("_len_torch_dispatch_stack"));
  const py::object& transforms =
      ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch._C").attr("_functorch").attr("peek_interpreter_stack"));
  const py::object& traced = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch._C").attr("_is_tracing"));
  return PyLong_AsLong(steal(PyObject_CallNoArgs(modes.ptr())).ptr()) == 0 &&
         steal(PyObject_CallNoArgs(transforms.ptr())).is_none() &&
         steal(PyObject_CallNoArgs(traced.ptr())).ptr() == Py_False;
}

std::optional<Dtype> to_dtype(py::handle torch_dtype) {
  const py::object& dtypes = ANCHOR_EXT_PYTHON_ONCE([] {
    const py::module_ torch = py::module_::import("torch");
    return py::make_tuple(torch.attr("float32"), torch.attr("float64"), torch.attr("float16"), torch.attr("bfloat16"));
  }());
  constexpr Dtype kDtypes[] = {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16};
  for (Py_ssize_t i = 0; i < 4; ++i)
    if (PyTuple_GET_ITEM(dtypes.ptr(), i) == torch_dtype.ptr()) return kDtypes[i];
  return std::nullopt;
}

// torch's tensors as plain data (DLPack's exchange interface for C); null where torch has another version of it.
const DLPackExchangeAPI* exchange() {
  constexpr const char* kName = "dlpack_exchange_api";
  const py::object& capsule = ANCHOR_EXT_PYTHON_ONCE(
      py::getattr(py::module_::import("torch").attr("Tensor"), "__dlpack_c_exchange_api__", py::none()));
  if (!PyCapsule_IsValid(capsule.ptr(), kName)) return nullptr;
  const auto* const api = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  const bool is_known = api->header.version.major == DLPACK_MAJOR_VERSION && api->dltensor_from_py_object_no_sync;
  return is_known ? api : nullptr;
}

py::object call(py::handle object, const py::object& method) {
  return steal(PyObject_CallMethodNoArgs(object.ptr(), method.ptr()));
}

// Whether a tensor's numbers, from this address on, are all in its storage, which may have been resized, or be one of
// the zeros that torch makes up and that lie nowhere.
bool storage_holds(py::handle tensor, std::uintptr_t memory, std::int64_t count, int bytes) {
  if (const std::optional<Extent> extent = storage_extent(tensor.ptr()))
    return memory != static_cast<std::uintptr_t>(extent->offset * bytes) &&
           (extent->offset + count) * bytes <= extent->bytes;
  const py::object& untyped_storage = ANCHOR_EXT_PYTHON_ONCE(py::str("untyped_storage"));
  const py::object& nbytes = ANCHOR_EXT_PYTHON_ONCE(py::str("nbytes"));
  const py::object& data_ptr = ANCHOR_EXT_PYTHON_ONCE(py::str("data_ptr"));
  const py::object storage = call(tensor, untyped_storage);
  const auto address = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(storage.ptr(), data_ptr.ptr()));
  if (!address) {
    PyErr_Clear();  // it lies nowhere
    return false;
  }
  const auto begin = static_cast<std::uintptr_t>(PyLong_AsUnsignedLongLong(address.ptr()));
  const auto end = begin + static_cast<std::uintptr_t>(PyLong_AsUnsignedLongLong(call(storage, nbytes).ptr()));
  return memory >= begin && memory + static_cast<std::uintptr_t>(count * bytes) <= end;
}

// Where an `out` lies about which there is nothing to say: a plain, contiguous tensor of these sizes and this type,
// whose storage holds it. Without memory for any other.
Empty plain_out(py::handle out, Sizes sizes, Dtype dtype) {
  const py::object& tensor_type = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch").attr("Tensor"));
  const py::object& requires_grad = ANCHOR_EXT_PYTHON_ONCE(py::str("requires_grad"));
  const py::object& is_neg = ANCHOR_EXT_PYTHON_ONCE(py::str("is_neg"));
  if (reinterpret_cast<PyObject*>(Py_TYPE(out.ptr())) != tensor_type.ptr() || exchange() == nullptr) return {};
  if (steal(PyObject_GetAttr(out.ptr(), requires_grad.ptr())).ptr() != Py_False || call(out, is_neg).ptr() != Py_False)
    return {};

  DLTensor tensor;
  if (exchange()->dltensor_from_py_object_no_sync(out.ptr(), &tensor) != 0) {
    PyErr_Clear();  // sparse, nested, ...
    return {};
  }
  const int code = dtype == Dtype::bfloat16 ? kDLBfloat : kDLFloat;
  const int bytes = dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
  const auto [device, index] = tensor.device;
  const bool is_alike = (device == kDLCPU || device == kDLCUDA) && tensor.dtype.code == code &&
                        tensor.dtype.bits == 8 * bytes && tensor.dtype.lanes == 1 &&
                        tensor.ndim == static_cast<std::int32_t>(sizes.count) &&
                        std::equal(sizes.begin, sizes.begin + sizes.count, tensor.shape);
  if (!is_alike) return {};
  std::int64_t stride = 1;
  for (std::size_t i = sizes.count; i-- > 0; stride *= sizes.begin[i])
    if (sizes.begin[i] != 1 && tensor.strides[i] != stride) return {};

  const auto memory = reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset;
  if (tensor.data == nullptr || !storage_holds(out, memory, stride, bytes)) return {};
  return {py::reinterpret_borrow<py::object>(out),
          reinterpret_cast<void*>(memory),
          {device == kDLCPU ? Device::cpu : Device::cuda, device == kDLCPU ? -1 : index}};
}

// Of memory that changes behind autograd's back. (An inference tensor has no version: torch leaves it alone.)
void increment_version(py::handle tensor) {
  const py::object& increment = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch._C").attr("_increment_version"));
  const py::object one = steal(PyTuple_Pack(1, tensor.ptr()));
  steal(PyObject_CallOneArg(increment.ptr(), one.ptr()));
}

// What was resolved for a device as users pass it; null where it was not yet, or is nothing of the kind.
PyObject* find_device(py::handle resolved, py::handle device) {
  const py::object& device_type = ANCHOR_EXT_PYTHON_ONCE(py::module_::import("torch").attr("device"));
  const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(device.ptr()));
  const bool can_be_key = device.is_none() || type == device_type.ptr() || PyUnicode_CheckExact(device.ptr()) ||
                          PyLong_CheckExact(device.ptr());  // (a bool equals an integer)
  return can_be_key ? PyDict_GetItemWithError(resolved.ptr(), device.ptr()) : nullptr;
}

constexpr std::int64_t kQuickAnchors = 16384;  // that a thread makes in the time that others take to get the GIL: 3 us

// A configuration, what keeps it alive, and the pyramid over the last image: most calls are for the same shape as the
// one before, and a second thread then finds the pyramid in its own caches.
struct Quick {
  py::object owner;
  const Config* config;
  ImageShape image_shape;
  std::shared_ptr<const Pyramid> pyramid;  // shared, as another Python thread may replace it while this one writes
};

std::shared_ptr<const Pyramid> over(Quick& quick, PyObject* level_shapes, PyObject* image_shape, PyObject* clip) {
  std::int64_t sides[2];
  if (level_shapes != Py_None || clip != Py_None || !read_shape(image_shape, sides))
    return std::shared_ptr<const Pyramid>(new Pyramid(over(*quick.config, level_shapes, image_shape, clip)));
  if (!quick.pyramid || quick.image_shape.height != sides[0] || quick.image_shape.width != sides[1]) {
    const ImageShape shape{sides[0], sides[1]};
    quick.pyramid.reset(new Pyramid(quick.config->over({{}, shape, {}})));
    quick.image_shape = shape;
  }
  return quick.pyramid;
}

// The call behind generate(), in one piece, where there is nothing to say about its arguments: (level_shapes,
// image_shape, clip, batched, dtype, device, resolved, out), of which `resolved` is a dict from what users pass for a
// device to (torch.device, whether it is CUDA). Else None, and nothing has been done: the way through Python says what
// is wrong, or does what is more.
//
// Chosen by measuring a call at 64x64, where the call is all the cost, in us (torch 2.13 on one thread of an AMD EPYC;
// torch.full of the same tensor 1.5, torch.empty 1.0):
//   1.7   this (0.5 less with torch 2.14's new_tensor)
//   3.0   the same by way of pybind11 and of checks in Python
//  14.5   torch.ops.anchor_ext.generate, whose configuration of 205 numbers crosses the dispatcher boxed
py::object quickly(Quick& quick, PyObject* const* arguments) {
  const py::handle torch_dtype = arguments[4], torch_device = arguments[5], resolved = arguments[6], out = arguments[7];
  const std::optional<Dtype> dtype = to_dtype(torch_dtype);
  const bool of_out = !out.is_none() && torch_device.is_none();  // whatever device that is on
  const auto found = py::reinterpret_borrow<py::object>(
      of_out ? Py_None : find_device(resolved, torch_device));  // outlives the dict's
  if (!dtype || !found || !is_plain()) return py::none();
  const bool is_cuda = !of_out && PyTuple_GET_ITEM(found.ptr(), 1) == Py_True;
  const std::shared_ptr<const Pyramid> kept = over(quick, arguments[0], arguments[1], arguments[2]);
  const Pyramid& pyramid = *kept;
  const bool batched = arguments[3] == Py_True;
  const std::int64_t all[] = {1, pyramid.num_anchors, quick.config->num_components()};
  const Sizes sizes(batched ? all : all + 1, all + 3);

  Empty tensor;
  if (out.is_none()) {
    tensor =
        make_empty(sizes, torch_dtype, dtype, PyTuple_GET_ITEM(found.ptr(), 0), is_cuda ? Device::cuda : Device::cpu);
  } else {
    tensor = plain_out(out, sizes, *dtype);
    const bool is_there = of_out || (!is_cuda && tensor.place.device == Device::cpu);
    if (!tensor.tensor || !is_there) return py::none();
  }
  {
    std::optional<py::gil_scoped_release> release;
    if (pyramid.num_anchors > kQuickAnchors || tensor.place.device == Device::cuda) release.emplace();
    generate(pyramid, *dtype, tensor.memory, tensor.place);
  }
  if (!out.is_none()) increment_version(out);
  return std::move(tensor.tensor);
}

// As pybind11 would raise what is thrown.
PyObject* call_quickly(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  try {
    if (count != 8) throw std::invalid_argument("expected eight arguments");
    return quickly(*static_cast<Quick*>(PyCapsule_GetPointer(self, nullptr)), arguments).release().ptr();
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

py::object quick_generate(py::object config) {
  static PyMethodDef method{"quick_generate",
                            reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call_quickly)), METH_FASTCALL,
                            nullptr};
  auto* const quick = new Quick{config, config.cast<const Config*>(), {}, nullptr};
  const py::capsule self(quick, [](void* pointer) { delete static_cast<Quick*>(pointer); });
  return steal(PyCFunction_New(&method, self.ptr()));
}

}  // namespace anchor_ext
