(* Prints what each theorem rests on. scripts/proofs.sh checks that every answer is "Closed under the global
   context": no axiom is used, and nothing is admitted. *)

From ResNeXt Require Import Backward Controls.

Print Assumptions conv_1x1.
Print Assumptions sum_by_paths.
Print Assumptions grouped_conv_is_block_diagonal.
Print Assumptions a_is_b.
Print Assumptions b_is_c.
Print Assumptions stacked_rows.
Print Assumptions group_is_path.
Print Assumptions forms_are_equal.
Print Assumptions a_to_b_to_a.
Print Assumptions b_to_a_to_b.
Print Assumptions b_to_c_to_b.
Print Assumptions c_to_b_to_c.
Print Assumptions a_to_c_to_a.
Print Assumptions c_to_a_to_c.
Print Assumptions blocks_are_equal.
Print Assumptions blocks_are_equal_from_c.
Print Assumptions networks_are_equal.
Print Assumptions batch_norm_is_function.
Print Assumptions derivative_of_conv.
Print Assumptions derivatives_ab.
Print Assumptions derivatives_bc.
Print Assumptions gradients_ab.
Print Assumptions gradients_bc.
Print Assumptions input_gradients_ab.
Print Assumptions input_gradients_bc.
Print Assumptions gradients_convert.
Print Assumptions derivative_of_grouped_conv.
Print Assumptions weight_gradient.
Print Assumptions input_gradient.
