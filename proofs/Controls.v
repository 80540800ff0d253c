(* Computed examples, which show that the theorems are not empty: one block of small integers gives the same
   numbers in all three forms, and other numbers as soon as something is wrong. All definitions are those of
   the theorems. *)

From Coq Require Import ZArith List.
From ResNeXt Require Import Backward.
Import ListNotations.
Local Open Scope Z_scope.

Definition integers : commutative_ring := {| laws := InitialRing.Zth |}.

(* The block has two paths of width two, two input and two output channels, and a 3×3 convolution with stride
   2 and padding 1, which makes 2×2 pixels of 3×4. *)
Definition one_by_one height width := {|
  kernel_height := 1; kernel_width := 1; stride := 1; padding := 0; dilation := 1;
  map_height := height; map_width := width |}.
Definition three_by_three := {|
  kernel_height := 3; kernel_width := 3; stride := 2; padding := 1; dilation := 1;
  map_height := 3; map_width := 4 |}.

(* Weights from -3 to 3 without a simple pattern. *)
Definition scattered (seed : Z) : kernel integers := fun o c u v =>
  let '(o, c, u, v) := (Z.of_nat o, Z.of_nat c, Z.of_nat u, Z.of_nat v) in
  (seed + o * 31 + c * 17 + u * 7 + v * 5) * (o + 2 * c + u + 3 * v + seed) mod 7 - 3.

Definition weights : weights_c integers :=
  {| c_conv1 := scattered 1; c_conv2 := scattered 2; c_conv3 := scattered 3 |}.
Definition input : map integers := fun c b y x =>
  let '(c, b, y, x) := (Z.of_nat c, Z.of_nat b, Z.of_nat y, Z.of_nat x) in
  (c * 13 + b * 11 + y * 7 + x * 3 + c * y * x) mod 9 - 4.

(* After the first convolution, the mean is subtracted (12 times the plane less its sum, to avoid fractions)
   and the result scaled, differently for each channel, and passed through ReLU. After the second come ReLU
   and a bias. *)
Definition functions := nat -> nat -> channel_function integers.
Definition centred_relu (scale : Z) : channel_function integers := fun p b y x =>
  Z.max 0 (scale * (12 * p b y x - mean (K := integers) 1 3 4 1 p)).
Definition first_functions : functions := fun i j => centred_relu (Z.of_nat (1 + i + 2 * j)).
Definition second_functions : functions := fun i j => pointwise (fun a : integers => Z.max 0 a - Z.of_nat i).

(* The same weights, path by path. *)
Definition paths := c_to_a 2 weights.

(* All output numbers: two channels of 2×2 pixels. *)
Definition indices := [0; 1]%nat.
Definition pixels (Y : map integers) : list Z :=
  flat_map (fun o => flat_map (fun y => List.map (fun x => Y o 0%nat y x : Z) indices) indices) indices.

Definition run_a C (f1 f2 : functions) w :=
  pixels (form_a C 2 2 (one_by_one 3 4) three_by_three (one_by_one 2 2) f1 f2 w input).
Definition run_b C (f1 f2 : functions) w :=
  pixels (form_b C 2 2 (one_by_one 3 4) three_by_three (one_by_one 2 2) f1 f2 w input).
Definition run_c C (f1 f2 : functions) w :=
  pixels (form_c C 2 2 (one_by_one 3 4) three_by_three (one_by_one 2 2) f1 f2 w input).

(* --- The forms agree, on numbers that are not trivial ------------------------------------------------- *)

Definition expected := [-921; -4725; -5205; -1371; 982; 4654; 3934; 2746].

Example form_c_computed : run_c 2 first_functions second_functions weights = expected.
Proof. vm_compute. reflexivity. Qed.

Example form_b_computed : run_b 2 first_functions second_functions (c_to_b 2 weights) = expected.
Proof. vm_compute. reflexivity. Qed.

Example form_a_computed : run_a 2 first_functions second_functions paths = expected.
Proof. vm_compute. reflexivity. Qed.

(* The theorem applies to this block: its assumptions can be met. *)
Lemma first_functions_are_functions i j : same_function (first_functions i j) (first_functions i j).
Proof.
  intros p q E b y x. unfold first_functions, centred_relu.
  rewrite (mean_equal (K := integers) 1 3 4 1 p q E), E. reflexivity.
Qed.

Example theorem_applies :
  forall o, same_plane
    (form_c 2 2 2 (one_by_one 3 4) three_by_three (one_by_one 2 2)
      first_functions second_functions weights input o)
    (form_a 2 2 2 (one_by_one 3 4) three_by_three (one_by_one 2 2)
      first_functions second_functions paths input o).
Proof.
  intros o. refine (proj2 (proj2 (proj2 (forms_are_equal _ _ _ _ _ _ _ _ _ _ _ _)) weights)).
  - intros i j _ _. apply first_functions_are_functions.
  - intros i j _ _. apply pointwise_is_function.
Qed.

(* --- Broken forms differ ------------------------------------------------------------------------------ *)

Definition other (i : nat) := (1 - i)%nat.

(* Only the second convolutions of the two paths are swapped. *)
Example permuted_path_differs :
  run_a 2 first_functions second_functions
    {| a_conv1 := a_conv1 paths; a_conv2 := fun i => a_conv2 paths (other i); a_conv3 := a_conv3 paths |}
  <> expected.
Proof. vm_compute. discriminate. Qed.

(* If everything is swapped, the paths are only numbered differently, and their sum is the same. *)
Example permuted_paths_agree :
  run_a 2 (fun i => first_functions (other i)) (fun i => second_functions (other i))
    {| a_conv1 := fun i => a_conv1 paths (other i); a_conv2 := fun i => a_conv2 paths (other i);
       a_conv3 := fun i => a_conv3 paths (other i) |} = expected.
Proof. vm_compute. reflexivity. Qed.

Example missing_path_differs : run_a 1 first_functions second_functions paths <> expected.
Proof. vm_compute. discriminate. Qed.

(* One weight is increased by 1. *)
Example changed_weight_differs :
  run_c 2 first_functions second_functions
    {| c_conv1 := c_conv1 weights; c_conv3 := c_conv3 weights;
       c_conv2 := fun o c u v => c_conv2 weights o c u v + at_entry (K := integers) 1 0 1 1 o c u v |}
  <> expected.
Proof. vm_compute. discriminate. Qed.

(* The groups are off by one channel: the rows of the first convolution are rotated by one. *)
Example shifted_groups_differ :
  run_c 2 first_functions second_functions
    {| c_conv1 := fun o => c_conv1 weights ((o + 1) mod 4)%nat;
       c_conv2 := c_conv2 weights; c_conv3 := c_conv3 weights |}
  <> expected.
Proof. vm_compute. discriminate. Qed.

(* The columns of the last convolution are dealt out to the paths in turns. *)
Example interleaved_columns_differ :
  run_a 2 first_functions second_functions
    {| a_conv1 := a_conv1 paths; a_conv2 := a_conv2 paths;
       a_conv3 := fun i o j => c_conv3 weights o (j * 2 + i)%nat |} <> expected.
Proof. vm_compute. discriminate. Qed.

(* Each path has the other's functions after its first convolution. *)
Example wrong_norms_differ :
  run_a 2 (fun i => first_functions (other i)) second_functions paths <> expected.
Proof. vm_compute. discriminate. Qed.

(* A function that mixes channels is not a channel function, and here the theorem's assumption matters: within
   a path it would see that path's channels only. *)
Definition less_other_channels (count : nat) (X : map integers) : map integers := fun c b y x =>
  X c b y x - sum (K := integers) count (fun c => X c b y x).

Example mixed_channels_differ :
  pixels (fun o b y x => sum 2 (fun i => conv (one_by_one 2 2) 2 (a_conv3 paths i) (less_other_channels 2
    (path_start 2 2 (one_by_one 3 4) three_by_three
      (a_conv1 paths i) (a_conv2 paths i) (first_functions i) (second_functions i) input)) o b y x))
  <> pixels (conv (one_by_one 2 2) 4 (c_conv3 weights) (less_other_channels 4
    (grouped 2 2 (one_by_one 3 4) three_by_three first_functions second_functions weights input))).
Proof. vm_compute. discriminate. Qed.

(* A tempting rewrite rule: two grouped convolutions of one input, with their outputs concatenated, would
   equal the grouped convolution with the concatenated weights. It does not hold: here are two groups with one
   input channel each, and with one and three output channels per group. *)
Definition eight (Y : map integers) : list Z := List.map (fun o => Y o 0%nat 0%nat 0%nat) (seq 0 8).
Definition concatenation {T} (X Y : nat -> T) : nat -> T :=
  fun o => if (o <? 2)%nat then X o else Y (o - 2)%nat.

Example concatenated_groups_differ :
  eight (concatenation (grouped_conv three_by_three 1 1 (scattered 1) input)
                       (grouped_conv three_by_three 1 3 (scattered 2) input))
  <> eight (grouped_conv three_by_three 1 4 (concatenation (scattered 1) (scattered 2)) input).
Proof. vm_compute. discriminate. Qed.

(* --- Gradients ---------------------------------------------------------------------------------------- *)

(* The functions are ReLU after a scale and a bias per channel. The shortcut takes every second pixel, and
   ReLU follows the sum. *)
Definition derivative_of_relu (a da : Z) : Z := if 0 <? a then da else 0.
Definition dual_relu (scale bias : Z) : channel_function (Dual integers) := with_derivative
  (pointwise (fun a : integers => Z.max 0 (scale * a + bias)))
  (fun p dp b y x => derivative_of_relu (scale * p b y x + bias) (scale * dp b y x)).
Definition dual_first (i j : nat) := dual_relu (Z.of_nat (1 + i + 2 * j)) 3.
Definition dual_second (i j : nat) := dual_relu 1 (Z.of_nat (i + j)).
Definition dual_third (o : nat) : channel_function (Dual integers) := fun p => p.
Definition dual_last (o : nat) := dual_relu 1 0.
Definition every_second_pixel (X : map (Dual integers)) : map (Dual integers) :=
  fun o b y x => X o b (2 * y)%nat (2 * x)%nat.
Definition output_gradient : map integers := fun o b y x => Z.of_nat (1 + o + 3 * y + x).

Notation gradients form := (form 2%nat 2%nat 2%nat (one_by_one 3 4) three_by_three (one_by_one 2 2)
  dual_first dual_second dual_third dual_last every_second_pixel 2%nat 1%nat 2%nat 2%nat output_gradient).
Definition of_a := gradients gradients_a paths input.
Definition of_b := gradients gradients_b (c_to_b 2 weights) input.
Definition of_c := gradients gradients_c weights input.

(* Three entries that belong to path 1: in form (c), to channel 2. *)
Example gradients_of_a_computed :
  (a_conv1 of_a 1 0 1 0 0, a_conv2 of_a 1 0 1 2 1, a_conv3 of_a 1 1 0 0 0) = (-220, 334, 1065).
Proof. vm_compute. reflexivity. Qed.

Example gradients_of_b_computed :
  (b_conv1 of_b 1 0 1 0 0, b_conv2 of_b 1 0 1 2 1, b_conv3 of_b 1 2 0 0) = (-220, 334, 1065).
Proof. vm_compute. reflexivity. Qed.

Example gradients_of_c_computed :
  (c_conv1 of_c 2 1 0 0, c_conv2 of_c 2 1 2 1, c_conv3 of_c 1 2 0 0) = (-220, 334, 1065).
Proof. vm_compute. reflexivity. Qed.

(* The gradient of one pixel, in all three forms. *)
Example input_gradients_computed :
  (gradients input_gradient_a paths input 1 0 1 2,
   gradients input_gradient_b (c_to_b 2 weights) input 1 0 1 2,
   gradients input_gradient_c weights input 1 0 1 2)%nat = (-330, -330, -330).
Proof. vm_compute. reflexivity. Qed.

(* The derivative is the slope: without functions between its convolutions, a block is linear in each single
   weight, so the loss grows by the gradient when that weight grows by 1. *)
Definition loss (w : weights_c integers) : Z := change_of_loss (K := integers) 2 1 2 2 output_gradient
  (form_c 2 2 2 (one_by_one 3 4) three_by_three (one_by_one 2 2) (fun _ _ p => p) (fun _ _ p => p) w input).
Definition plus (w dw : kernel integers) : kernel integers := fun o c u v => w o c u v + dw o c u v.
Definition linear_gradients := gradients_c 2%nat 2%nat 2%nat (one_by_one 3 4) three_by_three (one_by_one 2 2)
  (fun _ _ p => p) (fun _ _ p => p) (fun _ p => p) (fun _ p => p) (fun _ _ _ _ _ => zero)
  2%nat 1%nat 2%nat 2%nat output_gradient weights input.

Example gradients_are_slopes :
  loss {| c_conv1 := plus (c_conv1 weights) (at_entry 2 1 0 0);
          c_conv2 := c_conv2 weights; c_conv3 := c_conv3 weights |}
    = loss weights + c_conv1 linear_gradients 2 1 0 0 /\
  loss {| c_conv1 := c_conv1 weights;
          c_conv2 := plus (c_conv2 weights) (at_entry 2 1 2 1); c_conv3 := c_conv3 weights |}
    = loss weights + c_conv2 linear_gradients 2 1 2 1 /\
  loss {| c_conv1 := c_conv1 weights; c_conv2 := c_conv2 weights;
          c_conv3 := plus (c_conv3 weights) (at_entry 1 2 0 0) |}
    = loss weights + c_conv3 linear_gradients 1 2 0 0.
Proof. vm_compute. repeat split. Qed.
