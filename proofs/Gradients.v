(* The gradients of the three forms are equal, and convert as the weights do.

   Derivatives are taken with dual numbers a + b·ε, where ε² = 0: if a function maps w + dw·ε to y + dy·ε,
   then dy is its derivative at w in the direction dw. Dual numbers over a commutative ring are themselves a
   commutative ring, so the theorems of Forms.v hold for them, and that is the whole proof. *)

From ResNeXt Require Export Blocks.

(* --- Dual numbers ------------------------------------------------------------------------------------- *)

Section Dual.
Context (K : commutative_ring).
Add Ring ring_of_K : (laws K).

Definition dual_laws : @ring_theory (K * K) (zero, zero) (one, zero)
  (fun a b => (fst a ⊕ fst b, snd a ⊕ snd b))
  (fun a b => (fst a ⊗ fst b, fst a ⊗ snd b ⊕ snd a ⊗ fst b))
  (fun a b => (minus (fst a) (fst b), minus (snd a) (snd b)))
  (fun a => (neg (fst a), neg (snd a))) eq.
Proof.
  constructor; intros; repeat match goal with a : (_ * _)%type |- _ => destruct a end; simpl; f_equal; ring.
Qed.

Definition Dual : commutative_ring := {| laws := dual_laws |}.

End Dual.

Section Derivatives.
Context {K : commutative_ring}.
Add Ring ring_of_K : (laws K).

Definition dual_plane (p dp : plane K) : plane (Dual K) := fun b y x => (p b y x, dp b y x).
Definition dual_map (X dX : map K) : map (Dual K) := fun c => dual_plane (X c) (dX c).
Definition dual_kernel (w dw : kernel K) : kernel (Dual K) := fun o c u v => (w o c u v, dw o c u v).

Definition value (p : plane (Dual K)) : plane K := fun b y x => fst (p b y x).
Definition derivative (p : plane (Dual K)) : plane K := fun b y x => snd (p b y x).

(* What dual numbers give is the usual derivative: that of sums, of products (derivative_of_conv), and of
   functions between convolutions by the chain rule (with_derivative). *)

Lemma value_of_sum n (f : nat -> Dual K) : fst (sum n f) = sum n (fun i => fst (f i)).
Proof. induction n as [|n IH]; simpl; [reflexivity|]. rewrite IH. reflexivity. Qed.

Lemma derivative_of_sum n (f : nat -> Dual K) : snd (sum n f) = sum n (fun i => snd (f i)).
Proof. induction n as [|n IH]; simpl; [reflexivity|]. rewrite IH. reflexivity. Qed.

Lemma value_of_conv g n w dw X dX o :
  same_plane (value (conv g n (dual_kernel w dw) (dual_map X dX) o)) (conv g n w X o).
Proof.
  intros b y x. unfold value, conv. rewrite value_of_sum. apply sum_equal; intros c _.
  unfold correlate. rewrite value_of_sum. apply sum_equal; intros u _. rewrite value_of_sum.
  apply sum_equal; intros v _. simpl. unfold padded, dual_map, dual_plane.
  destruct (_ && _ && _ && _); reflexivity.
Qed.

(* The product rule: the derivative of w ∗ x is w ∗ dx + dw ∗ x. *)
Lemma derivative_of_conv g n w dw X dX o b y x :
  derivative (conv g n (dual_kernel w dw) (dual_map X dX) o) b y x
  = conv g n w dX o b y x ⊕ conv g n dw X o b y x.
Proof.
  unfold derivative, conv. rewrite derivative_of_sum, <- sum_add. apply sum_equal; intros c _.
  unfold correlate. rewrite derivative_of_sum, <- sum_add. apply sum_equal; intros u _.
  rewrite derivative_of_sum, <- sum_add. apply sum_equal; intros v _.
  simpl. unfold padded, dual_map, dual_plane, dual_kernel.
  destruct (_ && _ && _ && _); simpl; reflexivity.
Qed.

(* A channel function f, and df p dp as its derivative at p in the direction dp. For ReLU at 0, df may choose
   any value. *)
Definition with_derivative (f : channel_function K) (df : plane K -> plane K -> plane K)
  : channel_function (Dual K) := fun p b y x => (f (value p) b y x, df (value p) (derivative p) b y x).

Lemma with_derivative_is_function f df :
  same_function f f ->
  (forall p q dp dq, same_plane p q -> same_plane dp dq -> same_plane (df p dp) (df q dq)) ->
  same_function (with_derivative f df) (with_derivative f df).
Proof.
  intros Hf Hdf p q E b y x. unfold with_derivative.
  assert (Ev : same_plane (value p) (value q)) by (intros ? ? ?; unfold value; rewrite E; reflexivity).
  assert (Ed : same_plane (derivative p) (derivative q))
    by (intros ? ? ?; unfold derivative; rewrite E; reflexivity).
  rewrite (Hf _ _ Ev b y x), (Hdf _ _ _ _ Ev Ed b y x). reflexivity.
Qed.

(* --- Gradients ---------------------------------------------------------------------------------------- *)

(* G is the loss's gradient with respect to the output, of N images with m channels of H × W pixels. The loss
   changes by this when the output changes by dY. *)
Definition change_of_loss (m N H W : nat) (G dY : map K) : K :=
  sum m (fun o => sum N (fun b => sum H (fun y => sum W (fun x => G o b y x ⊗ dY o b y x)))).

(* Directions along one entry: 1 there, 0 elsewhere. *)
Definition at_entry (o c u v : nat) : kernel K := fun o' c' u' v' =>
  if (o' =? o) && (c' =? c) && (u' =? u) && (v' =? v) then one else zero.
Definition at_path (i : nat) (w : kernel K) : nat -> kernel K :=
  fun i' o c u v => if i' =? i then w o c u v else zero.
Definition at_pixel (c b y x : nat) : map K := fun c' b' y' x' =>
  if (c' =? c) && (b' =? b) && (y' =? y) && (x' =? x) then one else zero.
Definition no_kernel : kernel K := fun _ _ _ _ => zero.
Definition no_paths : nat -> kernel K := fun _ => no_kernel.
Definition no_map : map K := fun _ _ _ _ => zero.

Definition dual_a (w dw : weights_a K) : weights_a (Dual K) :=
  {| a_conv1 := fun i => dual_kernel (a_conv1 w i) (a_conv1 dw i);
     a_conv2 := fun i => dual_kernel (a_conv2 w i) (a_conv2 dw i);
     a_conv3 := fun i => dual_kernel (a_conv3 w i) (a_conv3 dw i) |}.
Definition dual_b (w dw : weights_b K) : weights_b (Dual K) :=
  {| b_conv1 := fun i => dual_kernel (b_conv1 w i) (b_conv1 dw i);
     b_conv2 := fun i => dual_kernel (b_conv2 w i) (b_conv2 dw i);
     b_conv3 := dual_kernel (b_conv3 w) (b_conv3 dw) |}.
Definition dual_c (w dw : weights_c K) : weights_c (Dual K) :=
  {| c_conv1 := dual_kernel (c_conv1 w) (c_conv1 dw);
     c_conv2 := dual_kernel (c_conv2 w) (c_conv2 dw);
     c_conv3 := dual_kernel (c_conv3 w) (c_conv3 dw) |}.

Definition zero_a : weights_a K := {| a_conv1 := no_paths; a_conv2 := no_paths; a_conv3 := no_paths |}.
Definition zero_b : weights_b K := {| b_conv1 := no_paths; b_conv2 := no_paths; b_conv3 := no_kernel |}.
Definition zero_c : weights_c K := {| c_conv1 := no_kernel; c_conv2 := no_kernel; c_conv3 := no_kernel |}.

(* A block's sizes, and the functions around its convolutions over dual numbers, that is, with their
   derivatives. If a function has parameters of its own, such as a batch norm's scale, these may have tangents
   too. *)
Variables (C d n : nat) (first second third : geometry).
Variables f1 f2 : nat -> nat -> channel_function (Dual K).
Variables (f3 last : nat -> channel_function (Dual K)) (shortcut : map (Dual K) -> map (Dual K)).
Hypothesis f1_is_function : forall i j, i < C -> j < d -> same_function (f1 i j) (f1 i j).
Hypothesis f2_is_function : forall i j, i < C -> j < d -> same_function (f2 i j) (f2 i j).
Hypothesis f3_is_function : forall o, same_function (f3 o) (f3 o).
Hypothesis last_is_function : forall o, same_function (last o) (last o).
Hypothesis shortcut_is_function : same_layer shortcut shortcut.

(* The derivative of the block's output, in the direction dw of its weights and dX of its input. *)
Definition derivative_a (w dw : weights_a K) (X dX : map K) : map K := fun o => derivative
  (block_a C d n first second third f1 f2 f3 last shortcut (dual_a w dw) (dual_map X dX) o).
Definition derivative_b (w dw : weights_b K) (X dX : map K) : map K := fun o => derivative
  (block_b C d n first second third f1 f2 f3 last shortcut (dual_b w dw) (dual_map X dX) o).
Definition derivative_c (w dw : weights_c K) (X dX : map K) : map K := fun o => derivative
  (block_c C d n first second third f1 f2 f3 last shortcut (dual_c w dw) (dual_map X dX) o).

Lemma dual_same_ab wa wb da db :
  same_weights_ab C d wa wb -> same_weights_ab C d da db -> same_weights_ab C d (dual_a wa da) (dual_b wb db).
Proof.
  intros Hw Hd i j Hi Hj c u v.
  destruct (Hw i j Hi Hj c u v) as (W1 & W2 & W3). destruct (Hd i j Hi Hj c u v) as (D1 & D2 & D3).
  simpl. unfold dual_kernel. rewrite W1, W2, D1, D2. repeat split. intros o. rewrite W3, D3. reflexivity.
Qed.

Lemma dual_same_bc wb wc db dc :
  same_weights_bc C d wb wc -> same_weights_bc C d db dc -> same_weights_bc C d (dual_b wb db) (dual_c wc dc).
Proof.
  intros Hw Hd i j Hi Hj c u v.
  destruct (Hw i j Hi Hj c u v) as (W1 & W2 & W3). destruct (Hd i j Hi Hj c u v) as (D1 & D2 & D3).
  simpl. unfold dual_kernel. rewrite W1, W2, D1, D2. repeat split. intros o. rewrite W3, D3. reflexivity.
Qed.

(* The derivatives are equal in every direction. *)
Theorem derivatives_ab wa wb da db X dX o :
  same_weights_ab C d wa wb -> same_weights_ab C d da db ->
  same_plane (derivative_a wa da X dX o) (derivative_b wb db X dX o).
Proof.
  intros Hw Hd b y x.
  refine (f_equal snd (block_equal f3 last shortcut _ _ f3_is_function last_is_function shortcut_is_function _
    _ _ (fun _ _ _ _ => eq_refl) o b y x)).
  apply same_layer_ab; try assumption. apply dual_same_ab; assumption.
Qed.

Theorem derivatives_bc wb wc db dc X dX o :
  same_weights_bc C d wb wc -> same_weights_bc C d db dc ->
  same_plane (derivative_b wb db X dX o) (derivative_c wc dc X dX o).
Proof.
  intros Hw Hd b y x.
  refine (f_equal snd (block_equal f3 last shortcut _ _ f3_is_function last_is_function shortcut_is_function _
    _ _ (fun _ _ _ _ => eq_refl) o b y x)).
  apply same_layer_bc; try assumption. apply dual_same_bc; assumption.
Qed.

(* The gradient's entry for a weight or a pixel is the loss's derivative along it. *)
Section Gradients.
Variables (m N H W : nat) (G : map K).

Definition gradients_a (w : weights_a K) (X : map K) : weights_a K :=
  let along dw := change_of_loss m N H W G (derivative_a w dw X no_map) in
  {| a_conv1 := fun i o c u v =>
       along {| a_conv1 := at_path i (at_entry o c u v); a_conv2 := no_paths; a_conv3 := no_paths |};
     a_conv2 := fun i o c u v =>
       along {| a_conv1 := no_paths; a_conv2 := at_path i (at_entry o c u v); a_conv3 := no_paths |};
     a_conv3 := fun i o c u v =>
       along {| a_conv1 := no_paths; a_conv2 := no_paths; a_conv3 := at_path i (at_entry o c u v) |} |}.
Definition gradients_b (w : weights_b K) (X : map K) : weights_b K :=
  let along dw := change_of_loss m N H W G (derivative_b w dw X no_map) in
  {| b_conv1 := fun i o c u v =>
       along {| b_conv1 := at_path i (at_entry o c u v); b_conv2 := no_paths; b_conv3 := no_kernel |};
     b_conv2 := fun i o c u v =>
       along {| b_conv1 := no_paths; b_conv2 := at_path i (at_entry o c u v); b_conv3 := no_kernel |};
     b_conv3 := fun o c u v =>
       along {| b_conv1 := no_paths; b_conv2 := no_paths; b_conv3 := at_entry o c u v |} |}.
Definition gradients_c (w : weights_c K) (X : map K) : weights_c K :=
  let along dw := change_of_loss m N H W G (derivative_c w dw X no_map) in
  {| c_conv1 := fun o c u v =>
       along {| c_conv1 := at_entry o c u v; c_conv2 := no_kernel; c_conv3 := no_kernel |};
     c_conv2 := fun o c u v =>
       along {| c_conv1 := no_kernel; c_conv2 := at_entry o c u v; c_conv3 := no_kernel |};
     c_conv3 := fun o c u v =>
       along {| c_conv1 := no_kernel; c_conv2 := no_kernel; c_conv3 := at_entry o c u v |} |}.

Definition input_gradient_a (w : weights_a K) (X : map K) : map K := fun c b y x =>
  change_of_loss m N H W G (derivative_a w zero_a X (at_pixel c b y x)).
Definition input_gradient_b (w : weights_b K) (X : map K) : map K := fun c b y x =>
  change_of_loss m N H W G (derivative_b w zero_b X (at_pixel c b y x)).
Definition input_gradient_c (w : weights_c K) (X : map K) : map K := fun c b y x =>
  change_of_loss m N H W G (derivative_c w zero_c X (at_pixel c b y x)).

Lemma change_of_loss_equal dY dZ :
  (forall o, same_plane (dY o) (dZ o)) -> change_of_loss m N H W G dY = change_of_loss m N H W G dZ.
Proof.
  intros E. apply sum_equal; intros o _. apply sum_equal; intros b _.
  apply sum_equal; intros y _. apply sum_equal; intros x _. rewrite E. reflexivity.
Qed.

(* Channel j of path i and channel j' of path i' are one channel only if i = i' and j = j'. *)
Lemma same_channel i j i' j' : j < d -> j' < d -> (i' * d + j' =? i * d + j) = (i' =? i) && (j' =? j).
Proof.
  intros Hj Hj'. apply eq_true_iff_eq. rewrite andb_true_iff, !Nat.eqb_eq.
  split; [|intros [-> ->]; reflexivity].
  intros E. split.
  - rewrite <- (path_of_channel d i' j'), <- (path_of_channel d i j), E by assumption. reflexivity.
  - rewrite <- (place_of_channel d i' j'), <- (place_of_channel d i j), E by assumption. reflexivity.
Qed.

(* A direction along one entry is the same direction in each form. *)
Lemma same_row i j c u v i' j' c' u' v' : j < d -> j' < d ->
  at_path i (at_entry j c u v) i' j' c' u' v' = at_entry (i * d + j) c u v (i' * d + j') c' u' v'.
Proof.
  intros Hj Hj'. unfold at_path, at_entry. rewrite same_channel by assumption.
  destruct (i' =? i); reflexivity.
Qed.

Lemma same_column i o j u v i' o' j' u' v' : j < d -> j' < d ->
  at_path i (at_entry o j u v) i' o' j' u' v' = at_entry o (i * d + j) u v o' (i' * d + j') u' v'.
Proof.
  intros Hj Hj'. unfold at_path, at_entry. rewrite same_channel by assumption.
  destruct (i' =? i), (o' =? o); reflexivity.
Qed.

(* The gradients of the weights are slices of one another as the weights are, and the gradients of the input
   are equal. *)

Theorem gradients_ab wa wb X :
  same_weights_ab C d wa wb -> same_weights_ab C d (gradients_a wa X) (gradients_b wb X).
Proof.
  intros Hw i j Hi Hj c u v.
  split; [|split; [|intros o]]; apply change_of_loss_equal; intros o'; apply derivatives_ab; try exact Hw;
    intros i' j' Hi' Hj' c' u' v'; (split; [|split; [|intros o'']]); try reflexivity.
  apply same_column; assumption.
Qed.

Theorem gradients_bc wb wc X :
  same_weights_bc C d wb wc -> same_weights_bc C d (gradients_b wb X) (gradients_c wc X).
Proof.
  intros Hw i j Hi Hj c u v.
  split; [|split; [|intros o]]; apply change_of_loss_equal; intros o'; apply derivatives_bc; try exact Hw;
    intros i' j' Hi' Hj' c' u' v'; (split; [|split; [|intros o'']]); try reflexivity;
    apply same_row; assumption.
Qed.

Theorem input_gradients_ab wa wb X :
  same_weights_ab C d wa wb -> same_map (input_gradient_a wa X) (input_gradient_b wb X).
Proof.
  intros Hw c b y x. apply change_of_loss_equal; intros o. apply derivatives_ab; [exact Hw|].
  intros i j _ _ c' u v. repeat split.
Qed.

Theorem input_gradients_bc wb wc X :
  same_weights_bc C d wb wc -> same_map (input_gradient_b wb X) (input_gradient_c wc X).
Proof.
  intros Hw c b y x. apply change_of_loss_equal; intros o. apply derivatives_bc; [exact Hw|].
  intros i j _ _ c' u v. repeat split.
Qed.

(* Converting the gradients gives the gradients of the converted weights. *)
Theorem gradients_convert w X : forall k, k < C * d -> forall c u v,
  c_conv1 (gradients_c (a_to_c d w) X) k c u v = c_conv1 (a_to_c d (gradients_a w X)) k c u v /\
  c_conv2 (gradients_c (a_to_c d w) X) k c u v = c_conv2 (a_to_c d (gradients_a w X)) k c u v /\
  forall o, c_conv3 (gradients_c (a_to_c d w) X) o k u v = c_conv3 (a_to_c d (gradients_a w X)) o k u v.
Proof.
  intros k Hk c u v. destruct (channel_is_some_path C d k Hk) as (i & j & Hi & Hj & ->).
  destruct (gradients_ab w (a_to_b d w) X (a_to_b_same C d w) i j Hi Hj c u v) as (A1 & A2 & A3).
  destruct (gradients_bc (a_to_b d w) (a_to_c d w) X (b_to_c_same C d _) i j Hi Hj c u v) as (B1 & B2 & B3).
  destruct (b_to_c_same C d (a_to_b d (gradients_a w X)) i j Hi Hj c u v) as (C1 & C2 & C3).
  destruct (a_to_b_same C d (gradients_a w X) i j Hi Hj c u v) as (D1 & D2 & D3).
  split; [|split; [|intros o]].
  - rewrite <- B1, <- A1, D1. exact C1.
  - rewrite <- B2, <- A2, D2. exact C2.
  - rewrite <- B3, <- A3, D3. exact (C3 o).
Qed.

End Gradients.
End Derivatives.
